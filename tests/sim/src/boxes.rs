//! `Boxes`: machines with a real sshd, as a marketplace's host would run them. Tier by tier, chosen by a probe at run time.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

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
    /// Disk, MB.
    pub disk_mb: u64,
    /// Memory limit, MB; 0: none. Only tier 2 enforces it.
    pub memory_mb: u64,
    /// GPU product name, for the scenario of the fake NVML.
    pub gpu_name: String,
    /// GPUs.
    pub num_gpus: u32,
    /// Memory of a GPU, MiB.
    pub vram_mib: u64,
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

/// What happens to the traffic between laptop and box.
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
    /// One-way delay, milliseconds.
    Delay(u64),
    /// Bytes per second each way.
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
    /// Starts sshd and `onstart`; answers when ssh can connect, with the address at which it does.
    async fn start(&self, id: u64) -> anyhow::Result<SocketAddr>;
    /// Docker's stop: TERM to PID 1, KILL after the grace; the disk stays.
    async fn stop(&self, id: u64, grace: Duration) -> anyhow::Result<()>;
    /// The host loses power: everything is gone at once, no goodbye on the wire; the disk stays.
    async fn lose_power(&self, id: u64) -> anyhow::Result<()>;
    /// Ends it for good and removes its disk.
    async fn destroy(&self, id: u64) -> anyhow::Result<()>;
    /// Replaces the keys that may log in.
    async fn set_keys(&self, id: u64, keys: Vec<String>) -> anyhow::Result<()>;
    /// Turns a fault of the link on or off.
    async fn link(&self, id: u64, fault: LinkFault) -> anyhow::Result<()>;
    /// Home directory of a box as seen from this machine, for tests that look inside.
    async fn home(&self, id: u64) -> anyhow::Result<PathBuf>;
}
