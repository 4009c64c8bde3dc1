//! The market under a real clock with real boxes: what the market decides is done to boxes, and what became of them is reported.
//!
//! Every box has one task that does its orders one after the other; one more task turns the market's clock. [`World::close`] ends
//! them all and destroys every box.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use crate::{
    boxes::{BoxSpec, Boxes},
    control::faults::{self, Faults},
    market::{Account, Delays, Effect, InstanceId, Market, Millis, catalogue, instance::Instance},
    vast::{extras::Extras, limits::Limits, results::Results},
};

/// Docker's default between TERM and KILL.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// A credit that runs out is noticed at least this often.
const LONGEST_NAP: Duration = Duration::from_secs(1);
/// Requests that are remembered for tests to look at.
const REMEMBERED_REQUESTS: usize = 10_000;
/// Longest wait for boxes to end when the simulator ends.
const CLOSING: Duration = Duration::from_secs(60);

/// An account of the simulated market.
#[derive(Debug, Clone, PartialEq)]
pub struct AccountConfig {
    /// Keys that act for it; at least one.
    pub api_keys: Vec<String>,
    /// Dollars it starts with.
    pub deposit_usd: f64,
}

/// What a world is made from.
#[derive(Debug, Clone, PartialEq)]
pub struct WorldConfig {
    /// Machines, prices and keys follow from it.
    pub seed: u64,
    /// Divides the provider's delays, nothing else.
    pub time_scale: f64,
    /// Accounts; at least one.
    pub accounts: Vec<AccountConfig>,
    /// Address of the API as boxes see it, for `VAST_URL`.
    pub url: String,
    /// Machines of the market.
    pub machines: usize,
    /// The market of this seed, in which prices move; `None`: the usual machines, at prices that stay.
    pub moving: Option<u64>,
    /// What the market's clock shows when it opens, milliseconds since the epoch; `None`: the date.
    pub began_ms: Option<Millis>,
}

/// One API request that was answered, for tests that count them.
#[derive(Debug, Clone, Serialize)]
pub struct SeenRequest {
    /// Milliseconds since the epoch.
    pub at_ms: Millis,
    /// Method.
    pub method: String,
    /// Path without query.
    pub path: String,
    /// Query as it came.
    pub query: String,
    /// JSON body; null when there was none.
    pub body: serde_json::Value,
    /// The body as it came.
    #[serde(skip)]
    pub body_text: String,
    /// What the client calls itself.
    pub user_agent: String,
    /// It showed a key.
    pub with_key: bool,
    /// HTTP status of the answer; 0: the connection was dropped instead.
    pub status: u16,
}

/// See the module's description.
pub struct World {
    market: Mutex<Market>,
    boxes: Arc<dyn Boxes>,
    url: String,
    faults: Mutex<Faults>,
    extras: Mutex<Extras>,
    results: Mutex<Results>,
    limits: Mutex<Limits>,
    seen: Mutex<VecDeque<SeenRequest>>,
    orders: Mutex<HashMap<InstanceId, mpsc::UnboundedSender<BoxOrder>>>,
    clock: Clock,
    turn: Notify,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What a box's task does. The market has at most one start or stop outstanding for a box, so its queue stays short.
#[derive(Debug)]
enum BoxOrder {
    Create(Box<BoxSpec>),
    Start(u64),
    Stop,
    Remake(Box<BoxSpec>),
    LosePower,
    SetKeys,
    Destroy,
}

/// Wall time that never runs backwards; in a story, the story's.
#[derive(Debug)]
struct Clock {
    began_ms: Millis,
    began: Instant,
}

impl Clock {
    fn new(began_ms: Option<Millis>) -> Self {
        let date = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            since.map_or(0, |since| since.as_millis() as Millis)
        };
        Self {
            began_ms: began_ms.unwrap_or_else(date),
            began: Instant::now(),
        }
    }

    fn now(&self) -> Millis {
        self.began_ms + self.began.elapsed().as_millis() as Millis
    }
}

impl World {
    /// Opens the market on these boxes. Needs a running tokio runtime; end it with [`World::close`].
    pub fn open(config: &WorldConfig, boxes: Arc<dyn Boxes>) -> Arc<Self> {
        let clock = Clock::new(config.began_ms);
        let now = clock.now();
        let accounts = config
            .accounts
            .iter()
            .enumerate()
            .map(|(index, account)| Account {
                id: 501 + index as u64,
                api_keys: account.api_keys.clone(),
                deposit_usd: account.deposit_usd,
                ssh_keys: Vec::new(),
            })
            .collect();
        let delays = Delays::scaled(config.time_scale);
        let market = match config.moving {
            Some(seed) => Market::moving(seed, config.time_scale, delays, accounts, now),
            None => {
                let machines = catalogue::machines_of(config.machines, config.seed, now);
                Market::new(config.seed, delays, machines, accounts, now)
            }
        };
        let world = Arc::new(Self {
            market: Mutex::new(market),
            boxes,
            url: config.url.clone(),
            faults: Mutex::default(),
            extras: Mutex::default(),
            results: Mutex::default(),
            limits: Mutex::default(),
            seen: Mutex::default(),
            orders: Mutex::default(),
            clock,
            turn: Notify::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        world.tasks.spawn(turn_clock(world.clone()));
        world
    }

    /// Does something in the market now, and to boxes what follows from it.
    pub fn act<T>(self: &Arc<Self>, what: impl FnOnce(&mut Market, Millis) -> T) -> T {
        let answer = self.quietly(what);
        self.turn.notify_one();
        answer
    }

    /// [`World::act`] without waking the clock.
    fn quietly<T>(self: &Arc<Self>, what: impl FnOnce(&mut Market, Millis) -> T) -> T {
        let mut market = lock(&self.market);
        let now = self.clock.now();
        market.advance(now);
        let answer = what(&mut market, now);
        for effect in market.take_effects() {
            self.carry_out(&market, effect);
        }
        answer
    }

    /// The boxes.
    pub fn boxes(&self) -> &Arc<dyn Boxes> {
        &self.boxes
    }

    /// The fault switches.
    pub fn faults(&self) -> MutexGuard<'_, Faults> {
        lock(&self.faults)
    }

    /// What accounts keep beside instances and keys.
    pub(crate) fn extras(&self) -> MutexGuard<'_, Extras> {
        lock(&self.extras)
    }

    /// Results that clients fetch later.
    pub(crate) fn results(&self) -> MutexGuard<'_, Results> {
        lock(&self.results)
    }

    /// Who called what when, for the API's rates.
    pub(crate) fn limits(&self) -> MutexGuard<'_, Limits> {
        lock(&self.limits)
    }

    /// Address of the API.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Milliseconds since the epoch.
    pub(crate) fn now_ms(&self) -> Millis {
        self.clock.now()
    }

    /// Remembers an answered request.
    pub(crate) fn saw(&self, mut request: SeenRequest) {
        request.at_ms = self.clock.now();
        let mut seen = lock(&self.seen);
        if seen.len() == REMEMBERED_REQUESTS {
            seen.pop_front();
        }
        seen.push_back(request);
    }

    /// The API requests of late, oldest first.
    pub fn seen(&self) -> Vec<SeenRequest> {
        lock(&self.seen).iter().cloned().collect()
    }

    /// Ends every instance, and waits until every box is gone.
    ///
    /// # Errors
    /// When boxes are left after a minute.
    pub async fn close(self: &Arc<Self>) -> anyhow::Result<()> {
        self.act(|market, now| {
            let ids: Vec<InstanceId> = market.instances().keys().copied().collect();
            for id in ids {
                // Those that were destroyed before are done already.
                let _ = market.destroy(now, id);
            }
        });
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(CLOSING, self.tasks.wait())
            .await
            .is_err()
        {
            anyhow::bail!("boxes were not destroyed within {} s", CLOSING.as_secs());
        }
        Ok(())
    }

    fn carry_out(self: &Arc<Self>, market: &Market, effect: Effect) {
        debug!(?effect, "host");
        let (id, order) = match effect {
            Effect::Create(id) => {
                let spec = self.spec_of(market, id);
                let (sender, orders) = mpsc::unbounded_channel();
                lock(&self.orders).insert(id, sender);
                self.tasks.spawn(keep_box(self.clone(), id, orders));
                (id, BoxOrder::Create(Box::new(spec)))
            }
            Effect::Start(id, epoch) => (id, BoxOrder::Start(epoch)),
            Effect::Stop(id) => (id, BoxOrder::Stop),
            Effect::Remake(id) => {
                let spec = self.spec_of(market, id);
                (id, BoxOrder::Remake(Box::new(spec)))
            }
            Effect::LosePower(id) => (id, BoxOrder::LosePower),
            Effect::SetKeys(id) => (id, BoxOrder::SetKeys),
            Effect::Destroy(id) => (id, BoxOrder::Destroy),
        };
        let mut orders = lock(&self.orders);
        let ends = matches!(order, BoxOrder::Destroy);
        if let Some(sender) = orders.get(&id) {
            // The task lives until its Destroy, which is the last order of a box.
            let _ = sender.send(order);
        }
        if ends {
            orders.remove(&id);
        }
    }

    fn spec_of(&self, market: &Market, id: InstanceId) -> BoxSpec {
        let instance = &market.instances()[&id];
        let mut spec = box_spec(market, instance, &self.url, self.boxes.host_address());
        // What the order says itself comes last, and wins.
        let secrets = self.extras().secrets(instance.account);
        spec.env.splice(0..0, secrets);
        spec
    }

    fn keys_of(self: &Arc<Self>, id: InstanceId) -> Vec<String> {
        self.act(|market, _| {
            let keys = market.living(id).map(|instance| instance.ssh_keys.clone());
            keys.unwrap_or_default()
                .into_iter()
                .map(|key| key.text)
                .collect()
        })
    }
}

/// Lets what is due happen when it is due. Whoever acts may bring the next moment forward, and says so.
async fn turn_clock(world: Arc<World>) {
    loop {
        let nap = world.quietly(|market, now| {
            market.next_due().map_or(LONGEST_NAP, |due| {
                Duration::from_millis((due - now).max(1) as u64).min(LONGEST_NAP)
            })
        });
        tokio::select! {
            () = world.stop.cancelled() => return,
            () = world.turn.notified() => {}
            () = tokio::time::sleep(nap) => {}
        }
    }
}

/// Does the orders for one box, one after the other, until it is destroyed.
async fn keep_box(
    world: Arc<World>,
    id: InstanceId,
    mut orders: mpsc::UnboundedReceiver<BoxOrder>,
) {
    let boxes = world.boxes.clone();
    let mut broken = None;
    // While keys are held back, the moment they are let in brings all of them.
    let mut held = false;
    let mut keys_from: Option<Instant> = None;
    loop {
        let wait_for_keys = async {
            match keys_from {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let order = tokio::select! {
            order = orders.recv() => order,
            () = wait_for_keys => {
                held = false;
                keys_from = None;
                Some(BoxOrder::SetKeys)
            }
        };
        let Some(order) = order else { return };
        match order {
            BoxOrder::Create(mut spec) => {
                if world.faults().key_delay_s > 0.0 {
                    held = true;
                    spec.authorized_keys.clear();
                }
                if let Err(err) = boxes.create(*spec).await {
                    warn!(id, error = format!("{err:#}"), "box was not made");
                    broken = Some(format!("{err:#}"));
                }
            }
            BoxOrder::Start(epoch) => {
                let started = match &broken {
                    Some(reason) => Err(anyhow::anyhow!("{reason}")),
                    None => boxes.start(id).await,
                };
                match started {
                    Ok(address) => {
                        world.act(|market, now| market.box_started(now, id, epoch, address));
                        if faults::take(&mut world.faults().container_ends) {
                            // One that was stopped meanwhile has ended anyway.
                            let _ = world.act(|market, now| market.end_container(now, id));
                        }
                        if held {
                            let delay =
                                Duration::from_secs_f64(world.faults().key_delay_s.max(0.0));
                            keys_from = Some(Instant::now() + delay);
                        }
                    }
                    Err(err) => {
                        let reason = format!("{err:#}");
                        warn!(id, reason, "box did not start");
                        world.act(|market, now| market.box_failed(now, id, epoch, &reason));
                    }
                }
            }
            BoxOrder::Stop => {
                log_failure(id, "stop", boxes.stop(id, STOP_GRACE).await);
                world.act(|market, now| market.box_stopped(now, id));
            }
            BoxOrder::Remake(spec) => {
                log_failure(id, "make anew", boxes.remake(*spec).await);
            }
            BoxOrder::LosePower => log_failure(id, "lose power", boxes.lose_power(id).await),
            BoxOrder::SetKeys => {
                if !held && broken.is_none() {
                    log_failure(id, "set keys", boxes.set_keys(id, world.keys_of(id)).await);
                }
            }
            BoxOrder::Destroy => {
                log_failure(id, "destroy", boxes.destroy(id).await);
                return;
            }
        }
    }
}

/// A host's failures reach its tenants only as silence; whoever runs the simulator reads of them here.
fn log_failure(id: InstanceId, what: &str, result: anyhow::Result<()>) {
    if let Err(err) = result {
        warn!(id, error = format!("{err:#}"), "box did not {what}");
    }
}

/// The box of an instance, with the environment that containers get.
fn box_spec(market: &Market, instance: &Instance, url: &str, host: IpAddr) -> BoxSpec {
    let machine = &market.machine_of(instance).spec;
    let keys: Vec<String> = instance
        .ssh_keys
        .iter()
        .map(|key| key.text.clone())
        .collect();
    let own = |name: &str, value: String| (name.to_owned(), value);
    let mut env = vec![
        own("CONTAINER_ID", instance.id.to_string()),
        own("CONTAINER_API_KEY", instance.api_key.clone()),
        own("VAST_CONTAINERLABEL", format!("C.{}", instance.id)),
        own("VAST_URL", url.to_owned()),
        own("PUBLIC_IPADDR", host.to_string()),
        own("SSH_PUBLIC_KEY", keys.join("\n")),
        own("DATA_DIRECTORY", "/workspace".to_owned()),
        own("GPU_COUNT", instance.gpus.len().to_string()),
        own("JUPYTER_TOKEN", instance.jupyter_token.clone()),
    ];
    // Keys that begin with a dash are docker's flags.
    env.extend(
        instance
            .order
            .env
            .iter()
            .filter(|(name, _)| !name.starts_with('-'))
            .cloned(),
    );
    BoxSpec {
        id: instance.id,
        env,
        onstart: instance.order.onstart.clone().unwrap_or_default(),
        authorized_keys: keys,
        disk_mb: (instance.order.disk_gb * 1000.0) as u64,
        memory_mb: machine.ram_share_mb(instance.gpus.len()) as u64,
        gpu_name: machine.gpu.name.to_owned(),
        num_gpus: instance.gpus.len() as u32,
        vram_mib: machine.gpu.ram_mb,
        compute_cap: machine.gpu.compute_cap,
    }
}

/// No code panics while it holds one of these locks; if some did, the state would still be whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
