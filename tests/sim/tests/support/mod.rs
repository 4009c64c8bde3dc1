//! A simulator inside the test: the real market and HTTP server over boxes that only remember what was asked of them.

#![allow(dead_code, reason = "each test binary uses its part")]

#[path = "../../../skip.rs"]
mod skip;
pub mod vastai;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use serde_json::{Value, json};
use spotter_sim::{
    boxes::{BoxSpec, Boxes, LinkFault, Tier},
    listen,
    market::catalogue::MACHINES,
    sim,
    world::{AccountConfig, World, WorldConfig},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What a box was told, in order.
pub type Calls = Vec<String>;

/// Boxes without anything in them.
#[derive(Default)]
pub struct NoBoxes {
    pub calls: Mutex<BTreeMap<u64, Calls>>,
    pub specs: Mutex<BTreeMap<u64, BoxSpec>>,
    pub keys: Mutex<BTreeMap<u64, Vec<String>>>,
    starts: Mutex<u16>,
    pub refuse_start: Mutex<Option<String>>,
    /// Home of every box, when a test made one.
    pub home: Mutex<Option<PathBuf>>,
}

impl NoBoxes {
    fn note(&self, id: u64, what: &str) {
        self.calls
            .lock()
            .unwrap()
            .entry(id)
            .or_default()
            .push(what.to_owned());
    }

    pub fn calls(&self, id: u64) -> Calls {
        self.calls
            .lock()
            .unwrap()
            .get(&id)
            .cloned()
            .unwrap_or_default()
    }
}

#[async_trait]
impl Boxes for NoBoxes {
    fn tier(&self) -> Tier {
        Tier::One
    }
    fn host_address(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    }
    async fn create(&self, spec: BoxSpec) -> anyhow::Result<()> {
        self.note(spec.id, "create");
        self.keys
            .lock()
            .unwrap()
            .insert(spec.id, spec.authorized_keys.clone());
        self.specs.lock().unwrap().insert(spec.id, spec);
        Ok(())
    }
    async fn start(&self, id: u64) -> anyhow::Result<SocketAddr> {
        self.note(id, "start");
        if let Some(reason) = self.refuse_start.lock().unwrap().clone() {
            anyhow::bail!("{reason}");
        }
        let mut starts = self.starts.lock().unwrap();
        *starts += 1;
        Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, 20_000 + *starts)))
    }
    async fn stop(&self, id: u64, grace: Duration) -> anyhow::Result<()> {
        self.note(id, &format!("stop {}", grace.as_secs()));
        Ok(())
    }
    async fn lose_power(&self, id: u64) -> anyhow::Result<()> {
        self.note(id, "lose power");
        Ok(())
    }
    async fn destroy(&self, id: u64) -> anyhow::Result<()> {
        self.note(id, "destroy");
        Ok(())
    }
    async fn remake(&self, spec: BoxSpec) -> anyhow::Result<()> {
        self.note(spec.id, "remake");
        self.specs.lock().unwrap().insert(spec.id, spec);
        Ok(())
    }
    async fn set_keys(&self, id: u64, keys: Vec<String>) -> anyhow::Result<()> {
        self.note(id, "set keys");
        self.keys.lock().unwrap().insert(id, keys);
        Ok(())
    }
    async fn link(&self, id: u64, fault: LinkFault) -> anyhow::Result<()> {
        self.note(id, &format!("link {fault:?}"));
        Ok(())
    }
    async fn home(&self, id: u64) -> anyhow::Result<PathBuf> {
        let home = self.home.lock().unwrap().clone();
        home.ok_or_else(|| anyhow::anyhow!("box {id} has no home"))
    }
}

/// A running simulator.
pub struct Sim {
    pub url: String,
    pub key: String,
    pub boxes: Arc<NoBoxes>,
    pub world: Arc<World>,
    pub http: reqwest::Client,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

impl Sim {
    /// Two keys `a` and `b` of one account, and `other` of a second one. Provider delays are a thousandth of the real ones.
    pub async fn open() -> Self {
        Self::open_with(MACHINES).await
    }

    /// The same with so many machines.
    pub async fn open_with(machines: usize) -> Self {
        Self::open_market(machines, None, 1000.0).await
    }

    /// The market of a seed in which prices move, so much faster than time.
    pub async fn open_moving(seed: u64, speed: f64) -> Self {
        Self::open_market(MACHINES, Some(seed), speed).await
    }

    async fn open_market(machines: usize, moving: Option<u64>, time_scale: f64) -> Self {
        // Another test of this process may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let account = |keys: &[&str]| AccountConfig {
            api_keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            deposit_usd: 50.0,
        };
        let config = WorldConfig {
            seed: 1,
            time_scale,
            accounts: vec![account(&["a", "b"]), account(&["other"])],
            url: url.clone(),
            machines,
            moving,
            began_ms: None,
        };
        let boxes = Arc::new(NoBoxes::default());
        let world = World::open(&config, boxes.clone());
        let stop = CancellationToken::new();
        let app = sim::app(world.clone(), None, stop.clone());
        let server = tokio::spawn(listen::serve(listener, app, stop.clone()));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self {
            url,
            key: "a".into(),
            boxes,
            world,
            http,
            stop,
            server,
        }
    }

    /// One request; the status and the JSON body (or the text as a JSON string).
    pub async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.call_as(&self.key, method, path, body).await
    }

    pub async fn call_as(&self, key: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
        let mut request = self.request(method, path).bearer_auth(key);
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        )
    }

    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.http
            .request(method.parse().unwrap(), format!("{}{path}", self.url))
    }

    /// A control verb that has to succeed.
    pub async fn sim(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.call("POST", &format!("/sim/{path}"), body).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// The cheapest offer that a query finds.
    pub async fn offer(&self, mut query: Value) -> Value {
        query["order"] = json!([["dph_total", "asc"]]);
        let (status, found) = self.call("POST", "/api/v0/bundles/", query).await;
        assert_eq!(status, 200, "{found}");
        found["offers"][0].clone()
    }

    /// Rents the cheapest single RTX 4090, with a bid when there is one, and waits until it runs.
    pub async fn running(&self, bid: Option<f64>) -> u64 {
        let offer = self
            .offer(json!({"gpu_name": {"eq": "RTX 4090"}, "num_gpus": {"eq": 1}}))
            .await;
        let path = format!("/api/v0/asks/{}/", offer["id"]);
        let order =
            json!({"image": "i:1", "disk": 40, "price": bid, "env": {"A": "1"}, "onstart": "true"});
        let (status, answer) = self.call("PUT", &path, order).await;
        assert_eq!(status, 200, "{answer}");
        let id = answer["new_contract"].as_u64().unwrap();
        self.until(id, "actual_status", "running").await;
        id
    }

    pub async fn row(&self, id: u64) -> Value {
        let (status, answer) = self
            .call("GET", &format!("/api/v0/instances/{id}/"), Value::Null)
            .await;
        assert_eq!(status, 200, "{answer}");
        answer["instances"].clone()
    }

    /// Polls an instance until a field has a value.
    pub async fn until(&self, id: u64, field: &str, value: impl Into<Value>) -> Value {
        let value = value.into();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let row = self.row(id).await;
            if row[field] == value {
                return row;
            }
            assert!(
                Instant::now() < deadline,
                "instance {id}: {field} is {} not {value}",
                row[field]
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a box was told something.
    pub async fn until_told(&self, id: u64, what: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.boxes.calls(id).iter().any(|call| call == what) {
            assert!(
                Instant::now() < deadline,
                "box {id}: {:?} has no {what}",
                self.boxes.calls(id)
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a box was told so many things.
    pub async fn until_calls(&self, id: u64, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.boxes.calls(id).len() < count {
            assert!(
                Instant::now() < deadline,
                "box {id}: {:?}",
                self.boxes.calls(id)
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends it; every box has to be gone.
    pub async fn close(self) {
        self.stop.cancel();
        self.server.await.unwrap();
        self.world.close().await.unwrap();
        for (id, calls) in self.boxes.calls.lock().unwrap().iter() {
            assert_eq!(
                calls.iter().filter(|call| *call == "destroy").count(),
                1,
                "box {id}: {calls:?}"
            );
            assert_eq!(
                calls.last().map(String::as_str),
                Some("destroy"),
                "box {id}"
            );
        }
    }
}
