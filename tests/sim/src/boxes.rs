//! `Boxes`: machines with a real sshd, as a marketplace's host would run them. Tier by tier, chosen by a probe at run time.
//!
//! Start at [`detect`]. `fleet` keeps the books of all boxes; `wrapped` (tiers 1 and 1.5) and `isolated` (tier 2) make and end one.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use anyhow::bail;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tracing::info;

mod delay;
mod fleet;
mod gpu;
mod instance;
mod isolated;
mod layout;
mod link;
mod namespace;
mod network;
mod processes;
mod tools;
mod wrapped;

pub use self::layout::fake_nvml_beside;
use fleet::{Backend, Fleet};
use instance::Instance;

/// What a box is made of; fixed at creation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoxSpec {
    /// Instance number.
    pub id: u64,
    /// Environment of the container: seen by PID 1 and `onstart`, not by ssh shells.
    pub env: Vec<(String, String)>,
    /// Shell text run at each start.
    pub onstart: String,
    /// Public keys that may log in.
    pub authorized_keys: Vec<String>,
    /// Disk, MB. Only tier 2 enforces it.
    pub disk_mb: u64,
    /// Memory limit, MB; 0: none. Only tier 2 enforces it.
    pub memory_mb: u64,
    /// GPU product name, for the scenario of the fake NVML.
    pub gpu_name: String,
    /// GPUs.
    pub num_gpus: u32,
    /// Memory of a GPU, MiB.
    pub vram_mib: u64,
    /// CUDA compute capability of a GPU, x 100 (890 = 8.9); 0: what the fake NVML says by itself.
    #[serde(default)]
    pub compute_cap: u32,
}

/// Kinds of boxes, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Tier {
    /// Any user in any container: sshd under libnss-wrapper.
    #[serde(rename = "1")]
    One,
    /// The same in an unprivileged user namespace, so that everything in it can be killed.
    #[serde(rename = "1.5")]
    OneAndHalf,
    /// Root: own network, pid and mount namespaces, overlay, size-limited disk, cgroup limits.
    #[serde(rename = "2")]
    Two,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::One => "1",
            Tier::OneAndHalf => "1.5",
            Tier::Two => "2",
        })
    }
}

impl FromStr for Tier {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "1" => Ok(Tier::One),
            "1.5" => Ok(Tier::OneAndHalf),
            "2" => Ok(Tier::Two),
            _ => Err(format!("no tier `{text}`: there are 1, 1.5 and 2")),
        }
    }
}

/// What happens to the ssh traffic between laptop and box. A box's own calls to the API and the bucket go on, except that
/// tier 2 delays and slows those too: there the whole line of the box is shaped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkFault {
    /// Nothing: all is well.
    Heal,
    /// TCP stays open, nothing flows.
    Drop,
    /// Every connection is reset; new ones work.
    Reset,
    /// New connections are refused, old ones are reset.
    Refuse,
    /// One-way delay, milliseconds; 0: none. Tier 2 answers with an error where there is no `/dev/net/tun`.
    Delay(u64),
    /// Bytes per second each way; 0: no limit. In tier 2 as with the delay.
    Rate(u64),
}

/// Makes and ends boxes. A stopped box keeps its disk; a destroyed one is gone, processes and all.
#[async_trait]
pub trait Boxes: Send + Sync {
    /// Which tier this is.
    fn tier(&self) -> Tier;
    /// Address of this machine as boxes see it, to which the simulator's API and bucket must listen (loopback in tier 1).
    fn host_address(&self) -> std::net::IpAddr;
    /// Makes the disk; nothing runs yet.
    async fn create(&self, spec: BoxSpec) -> anyhow::Result<()>;
    /// Starts sshd and `onstart`; answers when ssh can connect, with the address at which it does (another one at every start).
    async fn start(&self, id: u64) -> anyhow::Result<SocketAddr>;
    /// Docker's stop: TERM to PID 1, KILL after the grace; the disk stays.
    async fn stop(&self, id: u64, grace: Duration) -> anyhow::Result<()>;
    /// The host loses power: everything is gone at once, no goodbye on the wire; the disk stays.
    async fn lose_power(&self, id: u64) -> anyhow::Result<()>;
    /// Ends it for good and removes its disk.
    async fn destroy(&self, id: u64) -> anyhow::Result<()>;
    /// Makes a stopped box anew: nothing of its disk is left.
    async fn remake(&self, spec: BoxSpec) -> anyhow::Result<()> {
        self.destroy(spec.id).await?;
        self.create(spec).await
    }
    /// Replaces the keys that may log in.
    async fn set_keys(&self, id: u64, keys: Vec<String>) -> anyhow::Result<()>;
    /// Turns a fault of the link on or off. It stays through stop and start, until [`LinkFault::Heal`].
    async fn link(&self, id: u64, fault: LinkFault) -> anyhow::Result<()>;
    /// Home directory of a box as seen from this machine, for tests that look inside.
    async fn home(&self, id: u64) -> anyhow::Result<PathBuf>;
    /// What PID 1, `onstart` and sshd of a box have printed so far.
    async fn container_log(&self, id: u64) -> anyhow::Result<Vec<u8>> {
        bail!("boxes of tier {} keep no log (box {id})", self.tier())
    }
    /// Destroys every box and takes back all that was set up for them.
    async fn shutdown(&self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Finds out what kind of boxes this machine can make, and makes ready for them in `dir`.
///
/// Prefers the strongest tier when none is asked for. What an earlier simulator left in `dir`, killed perhaps, is removed first.
///
/// # Errors
/// When another simulator uses `dir`, or when the tier asked for (or any) does not work here: the message says what is missing.
pub fn detect(tier: Option<Tier>, dir: &Path) -> anyhow::Result<Arc<dyn Boxes>> {
    let instance = Arc::new(Instance::open(dir)?);
    instance.sweep()?;

    let candidates = match tier {
        Some(tier) => vec![tier],
        None => vec![Tier::Two, Tier::OneAndHalf, Tier::One],
    };
    let mut refused = Vec::new();
    for tier in candidates {
        match open(tier, &instance) {
            Ok(backend) => {
                info!(%tier, dir = %instance.dir().display(), "boxes of this tier work here");
                return Ok(Arc::new(Fleet::new(instance, backend)));
            }
            Err(err) => {
                info!(%tier, reason = format!("{err:#}"), "boxes of this tier do not work here");
                refused.push(format!("tier {tier}: {err:#}"));
            }
        }
    }
    bail!("no simulated boxes on this machine: {}", refused.join("; "))
}

/// Removes what a simulator that worked in `dir` has left: processes, mounts, interfaces, control groups, files.
///
/// # Errors
/// When a simulator still uses `dir`, or when something could not be removed.
pub fn sweep(dir: &Path) -> anyhow::Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    Instance::open(dir)?.sweep()
}

fn open(tier: Tier, instance: &Arc<Instance>) -> anyhow::Result<Box<dyn Backend>> {
    Ok(match tier {
        Tier::One | Tier::OneAndHalf => {
            Box::new(wrapped::Wrapped::open(tier, Arc::clone(instance))?)
        }
        Tier::Two => Box::new(isolated::Isolated::open(Arc::clone(instance))?),
    })
}
