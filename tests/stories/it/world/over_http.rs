//! The provider as it is: the real client of Vast.ai, over HTTP, to the simulated market on the story's clock.
//!
//! Nothing tells a paused clock that an answer is on its way: it would run ahead of the socket. So while a call is under way time passes
//! in small steps, after a moment of real time each; between calls it jumps, as in every story.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use serde_json::Value;
use spotter::provider::{
    Account, Actual, Charge, Instance, InstanceId, Offer, OfferQuery, Provider, ProviderError,
    RentRequest,
    vast::{ApiKey, Vast, read_instance},
};
use spotter_sim::{
    boxes::{BoxSpec, Boxes, LinkFault, Tier},
    control::verbs::Verb,
    listen,
    market::{catalogue::MACHINES, instance::Container},
    sim,
    vast::rows,
    world::{AccountConfig, World, WorldConfig},
};
use tokio::{net::TcpListener, sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{EPOCH_US, boxes::Fleet};

/// Real time that sockets are given while a call is under way, and how much of the story's time passes with it.
const BREATH: Duration = Duration::from_millis(1);
const PASSES: Duration = Duration::from_millis(20);
/// Dollars on the account.
const DEPOSIT_USD: f64 = 50.0;

/// The market behind its API; clones share it.
#[derive(Clone)]
pub struct HttpMarket {
    vast: Arc<Vast>,
    world: Arc<World>,
    calls: Arc<Calls>,
    url: String,
    stop: CancellationToken,
    began: Instant,
}

/// How many calls are under way.
#[derive(Default)]
struct Calls {
    under_way: AtomicUsize,
    begins: Notify,
}

/// One of them.
struct Call<'a>(&'a Calls);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, SeqCst);
    }
}

async fn pace(calls: Arc<Calls>) {
    loop {
        if calls.under_way.load(SeqCst) == 0 {
            calls.begins.notified().await;
            continue;
        }
        // The clock stands still while this waits.
        let _ = tokio::task::spawn_blocking(|| std::thread::sleep(BREATH)).await;
        tokio::time::advance(PASSES).await;
    }
}

impl HttpMarket {
    /// A market with the provider's usual delays, served on this machine; end it with [`Self::close`].
    pub async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let config = WorldConfig {
            seed: 1,
            time_scale: 1.0,
            accounts: vec![AccountConfig {
                api_keys: vec!["key".to_owned()],
                deposit_usd: DEPOSIT_USD,
            }],
            url: url.clone(),
            machines: MACHINES,
            moving: None,
            began_ms: Some(EPOCH_US / 1000),
        };
        let world = World::open(&config, Arc::new(Bare));
        let stop = CancellationToken::new();
        let app = sim::app(world.clone(), None, stop.clone());
        tokio::spawn(listen::serve(listener, app, stop.clone()));
        let calls = Arc::new(Calls::default());
        tokio::spawn(pace(calls.clone()));
        let market = Self {
            vast: Arc::new(Vast::new(url.clone(), Some(ApiKey::new("key")))),
            world,
            calls,
            url,
            stop,
            began: Instant::now(),
        };
        // The first request also sees to what every client of this process needs.
        market.does(Verb::State).await;
        market
    }

    /// Does something to the market, as its control interface does it.
    pub async fn does(&self, verb: Verb) -> Value {
        let _call = self.call();
        verb.run(&self.url).await.unwrap()
    }

    /// How many requests of a kind were made, such as `PUT /api/v0/asks/`.
    pub fn sent(&self, line: &str) -> usize {
        let seen = self.world.seen();
        let is = |method: &str, path: &str| format!("{method} {path}").starts_with(line);
        seen.iter()
            .filter(|seen| is(&seen.method, &seen.path))
            .count()
    }

    /// The whole bill, dollars.
    pub fn bill_usd(&self) -> f64 {
        self.world.act(|market, now| {
            let bills = market.instances().values();
            bills.map(|instance| instance.bill.total_usd(now)).sum()
        })
    }

    /// Ends it.
    pub async fn close(&self) {
        self.stop.cancel();
        self.world.close().await.unwrap();
    }

    fn call(&self) -> Call<'_> {
        self.calls.under_way.fetch_add(1, SeqCst);
        self.calls.begins.notify_one();
        Call(&self.calls)
    }

    /// The client dates what it reads by the real clock.
    fn dated(&self, instance: Instance) -> Instance {
        let real = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let told = EPOCH_US as f64 / 1e6 + self.began.elapsed().as_secs_f64();
        let ahead = told - real.as_secs_f64();
        Instance {
            up_since_s: instance.up_since_s.map(|since| since + ahead),
            ..instance
        }
    }
}

impl Fleet for HttpMarket {
    fn alive(&self) -> Vec<Instance> {
        self.world.act(|market, now| {
            let living = market.instances().values();
            living
                .filter(|instance| instance.destroyed_ms.is_none())
                .filter_map(|instance| {
                    let row = Value::Object(rows::instance(market, instance, now));
                    let mut told = read_instance(&row, now as f64 / 1000.0)?;
                    // Its box knows before the provider does that its container is down.
                    if told.actual == Actual::Running && instance.container != Container::Up {
                        told.actual = Actual::Exited;
                    }
                    Some(told)
                })
                .collect()
        })
    }
}

#[async_trait]
impl Provider for HttpMarket {
    fn name(&self) -> &'static str {
        self.vast.name()
    }

    fn base_url(&self) -> String {
        self.vast.base_url()
    }

    async fn account(&self) -> Result<Account, ProviderError> {
        let _call = self.call();
        self.vast.account().await
    }

    async fn offers(&self, query: &OfferQuery) -> Result<Vec<Offer>, ProviderError> {
        let _call = self.call();
        self.vast.offers(query).await
    }

    async fn rent(&self, request: &RentRequest) -> Result<InstanceId, ProviderError> {
        let _call = self.call();
        self.vast.rent(request).await
    }

    async fn instances(&self) -> Result<Vec<Instance>, ProviderError> {
        let _call = self.call();
        let found = self.vast.instances().await?;
        Ok(found.into_iter().map(|found| self.dated(found)).collect())
    }

    async fn instance(&self, id: InstanceId) -> Result<Option<Instance>, ProviderError> {
        let _call = self.call();
        let found = self.vast.instance(id).await?;
        Ok(found.map(|found| self.dated(found)))
    }

    async fn start(&self, id: InstanceId) -> Result<bool, ProviderError> {
        let _call = self.call();
        self.vast.start(id).await
    }

    async fn stop(&self, id: InstanceId) -> Result<(), ProviderError> {
        let _call = self.call();
        self.vast.stop(id).await
    }

    async fn destroy(&self, id: InstanceId) -> Result<(), ProviderError> {
        let _call = self.call();
        self.vast.destroy(id).await
    }

    async fn change_bid(&self, id: InstanceId, usd_per_hour: f64) -> Result<(), ProviderError> {
        let _call = self.call();
        self.vast.change_bid(id, usd_per_hour).await
    }

    async fn set_label(&self, id: InstanceId, label: &str) -> Result<(), ProviderError> {
        let _call = self.call();
        self.vast.set_label(id, label).await
    }

    async fn reboot(&self, id: InstanceId) -> Result<(), ProviderError> {
        let _call = self.call();
        self.vast.reboot(id).await
    }

    async fn recycle(&self, id: InstanceId) -> Result<(), ProviderError> {
        let _call = self.call();
        self.vast.recycle(id).await
    }

    async fn attach_key(&self, id: InstanceId, public_key: &str) -> Result<(), ProviderError> {
        let _call = self.call();
        self.vast.attach_key(id, public_key).await
    }

    async fn register_key(&self, public_key: &str) -> Result<(), ProviderError> {
        let _call = self.call();
        self.vast.register_key(public_key).await
    }

    async fn container_log(&self, id: InstanceId, tail: u32) -> Result<String, ProviderError> {
        let _call = self.call();
        self.vast.container_log(id, tail).await
    }

    async fn charges(
        &self,
        since_s: f64,
        instances: &[InstanceId],
    ) -> Result<Vec<Charge>, ProviderError> {
        let _call = self.call();
        self.vast.charges(since_s, instances).await
    }
}

/// Boxes without anything in them: what runs on them is scripted at the `Site` seam.
struct Bare;

#[async_trait]
impl Boxes for Bare {
    fn tier(&self) -> Tier {
        Tier::One
    }

    fn host_address(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    }

    async fn create(&self, _spec: BoxSpec) -> anyhow::Result<()> {
        Ok(())
    }

    async fn start(&self, _id: u64) -> anyhow::Result<SocketAddr> {
        Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, 22)))
    }

    async fn stop(&self, _id: u64, _grace: Duration) -> anyhow::Result<()> {
        Ok(())
    }

    async fn lose_power(&self, _id: u64) -> anyhow::Result<()> {
        Ok(())
    }

    async fn destroy(&self, _id: u64) -> anyhow::Result<()> {
        Ok(())
    }

    async fn remake(&self, _spec: BoxSpec) -> anyhow::Result<()> {
        Ok(())
    }

    async fn set_keys(&self, _id: u64, _keys: Vec<String>) -> anyhow::Result<()> {
        Ok(())
    }

    async fn link(&self, _id: u64, _fault: LinkFault) -> anyhow::Result<()> {
        Ok(())
    }

    async fn home(&self, id: u64) -> anyhow::Result<PathBuf> {
        anyhow::bail!("box {id} has no home")
    }
}
