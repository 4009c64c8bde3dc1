//! The whole simulator behind one `run`: boxes, bucket, market, HTTP; and an end that leaves nothing behind.

use std::{
    io::Read as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use axum::Router;
use serde::Serialize;
use tokio::{net::TcpListener, signal::unix::SignalKind};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

use crate::{
    boxes::{self, Boxes, Tier},
    control::{self, BucketFaults, Control},
    listen,
    market::catalogue,
    s3, vast,
    world::{AccountConfig, World, WorldConfig},
};

/// Dollars that an account starts with when nothing else is said.
pub const DEFAULT_DEPOSIT_USD: f64 = 100.0;
/// The one bucket.
const BUCKET: &str = "runs";
/// Times that a port which is free on one address may be taken on the other.
const PORT_TRIES: u32 = 20;

/// What was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct SimConfig {
    /// Everything of the simulator is below it.
    pub dir: PathBuf,
    /// Kind of boxes; `None`: the strongest that works here.
    pub tier: Option<Tier>,
    /// Divides the provider's delays; in a market that moves, others live so much faster. Nothing else.
    pub time_scale: f64,
    /// The market of this seed, in which prices move; `None`: the usual machines, at prices that stay.
    pub market: Option<u64>,
    /// Machines, prices and generated keys follow from it.
    pub seed: u64,
    /// Port of API and control interface; 0: any.
    pub port: u16,
    /// Machines of the market.
    pub machines: usize,
    /// Accounts; empty: one, with a generated key.
    pub accounts: Vec<AccountConfig>,
    /// End when standard input closes.
    pub with_stdin: bool,
}

/// What a user of the simulator has to know; printed as one line of JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ready {
    /// API, and below `/sim/` the control interface.
    pub url: String,
    /// Endpoint of the bucket.
    pub s3_url: String,
    /// Its name.
    pub s3_bucket: String,
    /// Key of its owner.
    pub s3_access_key: String,
    /// The secret to it.
    pub s3_secret_key: String,
    /// First key of the first account.
    pub api_key: String,
    /// All keys of all accounts.
    pub api_keys: Vec<Vec<String>>,
    /// Kind of boxes.
    pub tier: Tier,
    /// Process that ends everything on SIGTERM.
    pub pid: u32,
}

/// Runs the simulator until SIGTERM, SIGINT, `quit` or, if so configured, the end of standard input; then destroys every box.
///
/// `ready` is called once, when everything answers.
///
/// # Errors
/// When the simulator could not start, or could not take away its boxes.
pub async fn run(config: SimConfig, ready: impl FnOnce(Ready)) -> anyhow::Result<()> {
    has_gpus(&std::env::current_exe()?)?;
    let quit = CancellationToken::new();
    end_on_signals(&quit)?;
    if config.with_stdin {
        end_with_stdin(quit.clone());
    }
    std::fs::create_dir_all(&config.dir)
        .with_context(|| format!("cannot make {}", config.dir.display()))?;
    let boxes = boxes::detect(config.tier, &config.dir.join("boxes"))?;
    let served = serve(&config, boxes.clone(), quit, ready).await;
    let ended = boxes.shutdown().await;
    served.and(ended)
}

/// Boxes without GPUs are no market: each would be given up, and its machine avoided for days.
fn has_gpus(program: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(
        boxes::fake_nvml_beside(program).is_some(),
        "{} lies beside no libfake_nvml.so, so its boxes would have no GPU: build both with `cargo build -p spotter-sim -p fake-nvml`",
        program.display()
    );
    Ok(())
}

async fn serve(
    config: &SimConfig,
    boxes: Arc<dyn Boxes>,
    quit: CancellationToken,
    ready: impl FnOnce(Ready),
) -> anyhow::Result<()> {
    let tier = boxes.tier();
    let host = boxes.host_address();
    let listeners = listen_on(host, config.port).await?;
    let port = listeners[0].local_addr()?.port();
    let url = format!("http://{}", SocketAddr::new(host, port));
    let access_key = format!(
        "SIM{}",
        catalogue::secret(config.seed, "access key", 0)[..17].to_uppercase()
    );
    let secret_key = catalogue::secret(config.seed, "secret key", 0)[..40].to_owned();
    let bucket = open_bucket(config, host, s3::AccessKey::new(&access_key, &secret_key)).await?;
    let accounts = accounts(config);
    let world = World::open(
        &WorldConfig {
            seed: config.seed,
            time_scale: config.time_scale,
            accounts: accounts.clone(),
            url: url.clone(),
            machines: config.machines,
            moving: config.market,
            began_ms: None,
        },
        boxes,
    );
    let app = app(world.clone(), Some(bucket_faults(&bucket)), quit.clone());
    let servers = TaskTracker::new();
    for listener in listeners {
        servers.spawn(listen::serve(listener, app.clone(), quit.clone()));
    }
    info!(url, %tier, "market open");
    ready(Ready {
        url,
        s3_url: format!("http://{}", SocketAddr::new(host, bucket.addr().port())),
        s3_bucket: BUCKET.to_owned(),
        s3_access_key: access_key,
        s3_secret_key: secret_key,
        api_key: accounts[0].api_keys[0].clone(),
        api_keys: accounts
            .iter()
            .map(|account| account.api_keys.clone())
            .collect(),
        tier,
        pid: std::process::id(),
    });
    quit.cancelled().await;
    info!("closing the market");
    servers.close();
    servers.wait().await;
    let closed = world.close().await;
    // Last, so that boxes which end can still say their last word.
    bucket.stop().await;
    closed
}

/// The bucket, on loopback and on the address that boxes see.
async fn open_bucket(
    config: &SimConfig,
    host: IpAddr,
    key: s3::AccessKey,
) -> anyhow::Result<s3::S3Handle> {
    let mut listeners = listen_on(host, 0).await?.into_iter();
    let first = listeners
        .next()
        .expect("it listens on one address at least");
    let buckets = s3::S3Config {
        buckets: vec![BUCKET.to_owned()],
        keys: vec![key],
    };
    let handle = s3::serve(config.dir.join("s3"), first, buckets)?;
    for listener in listeners {
        handle.also_on(listener);
    }
    Ok(handle)
}

fn bucket_faults(bucket: &s3::S3Handle) -> BucketFaults {
    let board = bucket.faults();
    Arc::new(move |changes| board.apply(changes))
}

/// API and control interface in one router.
pub fn app(world: Arc<World>, bucket: Option<BucketFaults>, quit: CancellationToken) -> Router {
    control::router(Control {
        world: world.clone(),
        bucket,
        quit,
    })
    .fallback_service(vast::router(world))
}

/// Loopback, and the address that boxes see when it is another; the same port on both.
async fn listen_on(host: IpAddr, port: u16) -> anyhow::Result<Vec<TcpListener>> {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let mut last = None;
    for _ in 0..PORT_TRIES {
        let first = TcpListener::bind((loopback, port))
            .await
            .with_context(|| format!("cannot listen on {loopback}:{port}"))?;
        if host == loopback {
            return Ok(vec![first]);
        }
        let port = first.local_addr()?.port();
        match TcpListener::bind((host, port)).await {
            Ok(second) => return Ok(vec![first, second]),
            Err(err) => last = Some(err),
        }
    }
    let reason = last.map_or_else(String::new, |err| err.to_string());
    anyhow::bail!(
        "cannot listen on {host} and {loopback} with one port after {PORT_TRIES} tries: {reason}"
    )
}

fn accounts(config: &SimConfig) -> Vec<AccountConfig> {
    if !config.accounts.is_empty() {
        return config.accounts.clone();
    }
    let api_keys = vec![catalogue::secret(config.seed, "api key", 0)];
    vec![AccountConfig {
        api_keys,
        deposit_usd: DEFAULT_DEPOSIT_USD,
    }]
}

fn end_on_signals(quit: &CancellationToken) -> anyhow::Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = tokio::signal::unix::signal(kind).context("cannot wait for signals")?;
        let quit = quit.clone();
        tokio::spawn(async move {
            if signals.recv().await.is_some() {
                quit.cancel();
            }
        });
    }
    Ok(())
}

/// A thread of its own: a read of standard input cannot be cancelled, and must not hold the runtime's end.
fn end_with_stdin(quit: CancellationToken) {
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        let mut stdin = std::io::stdin().lock();
        while matches!(stdin.read(&mut buffer), Ok(1..)) {}
        quit.cancel();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulator_whose_boxes_would_have_no_gpu_does_not_start_and_says_what_to_build() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("spotter-sim");
        let refused = has_gpus(&program).unwrap_err().to_string();
        assert!(refused.contains("libfake_nvml.so"), "{refused}");
        assert!(
            refused.contains("`cargo build -p spotter-sim -p fake-nvml`"),
            "{refused}"
        );
        std::fs::create_dir(dir.path().join("deps")).unwrap();
        std::fs::write(dir.path().join("deps/libfake_nvml.so"), "").unwrap();
        has_gpus(&program).unwrap();
    }
}
