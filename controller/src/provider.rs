//! `Provider`: what we ask of a market that rents out GPU boxes, in spotter's own words.
//!
//! [`vast`] is the only file that knows the Vast.ai API; [`hosts`] are boxes that the user has already, and [`fleet`] both together;
//! [`memory`] is a market in memory for tests. Prices are US dollars per hour for the whole box.

mod error;
pub mod fleet;
pub mod hosts;
#[cfg(any(test, feature = "fakes"))]
pub mod memory;
pub mod vast;
pub mod volumes;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

pub use self::error::ProviderError;
use self::volumes::{Volume, VolumeId, VolumeOffer, VolumeQuery};

/// Number of an offer; dead as soon as it is rented.
pub type OfferId = u64;
/// Number of an instance, for as long as it exists.
pub type InstanceId = u64;

/// How a box is rented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rental {
    /// Ours until we end it.
    OnDemand,
    /// Cheaper; the market takes it back when somebody pays more.
    Interruptible,
}

/// A machine that the market rents out, at its price now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// Its number.
    pub id: OfferId,
    /// The physical machine; several offers may share it.
    pub machine_id: u64,
    /// Product name with spaces, such as `RTX 4090`.
    pub gpu_name: String,
    /// GPUs in the offer.
    pub num_gpus: u32,
    /// Memory of one GPU, MiB as the market reports it.
    pub vram_mib: u64,
    /// Usable system RAM of this slice, MB.
    pub ram_mb: u64,
    /// Effective CPU cores of this slice.
    pub cpu_cores: f64,
    /// Disk that can be rented at most, GB.
    pub disk_gb: f64,
    /// GPU price, $/h: the on-demand price, or the price to beat for an interruptible one.
    pub gpu_usd_per_hour: f64,
    /// Storage price at the asked size, $/h.
    pub storage_usd_per_hour: f64,
    /// Lowest bid that would run now, $/h; `None` for on-demand.
    pub min_bid_usd_per_hour: Option<f64>,
    /// Download and upload price, $/GB.
    pub inet_down_usd_per_gb: f64,
    /// Upload price, $/GB.
    pub inet_up_usd_per_gb: f64,
    /// Reliability, 0 to 1; `None`: it is not known.
    pub reliability: Option<f64>,
    /// Download bandwidth, Mb/s.
    pub inet_down_mbps: f64,
    /// Upload bandwidth, Mb/s.
    pub inet_up_mbps: f64,
    /// NVLink bandwidth, GB/s.
    pub nvlink_gbps: f64,
    /// Highest CUDA version of the driver.
    pub cuda: f64,
    /// CUDA compute capability x 100 (890 = 8.9).
    pub compute_cap: u32,
    /// Host was verified by the market.
    pub verified: bool,
    /// Host is a data centre.
    pub datacenter: bool,
    /// Country or region.
    pub geolocation: String,
    /// Longest remaining rental, seconds; `None`: it is not known.
    pub max_duration_s: Option<f64>,
    /// Open ports on the host's router.
    pub direct_ports: u32,
}

impl Offer {
    /// All-in price while it runs, $/h, traffic excluded.
    pub fn running_usd_per_hour(&self) -> f64 {
        self.gpu_usd_per_hour + self.storage_usd_per_hour
    }
}

/// One condition of a search, such as `reliability > 0.95`, in the market's own field names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Filter {
    /// Field.
    pub field: String,
    /// `eq neq gt gte lt lte in notin`.
    pub op: String,
    /// Value: number, string, boolean or list.
    pub value: serde_json::Value,
}

/// What to search for.
#[derive(Debug, Clone, PartialEq)]
pub struct OfferQuery {
    /// GPU name with spaces; `None`: any.
    pub gpu_name: Option<String>,
    /// Number of GPUs; `None`: any.
    pub num_gpus: Option<u32>,
    /// How it would be rented.
    pub rental: Rental,
    /// Disk size that prices are computed for and that must be available, GB.
    pub disk_gb: f64,
    /// Further conditions.
    pub filters: Vec<Filter>,
    /// Take one of these, in this order, instead of searching the market.
    pub hosts: Vec<SshAddress>,
    /// At most this many, cheapest first.
    pub limit: u32,
    /// Which these are, where more match.
    pub first: First,
}

/// Which offers a search names, where more match than it names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum First {
    /// Those that cost least, all in.
    #[default]
    Cheapest,
    /// Those with the most arithmetic.
    Fastest,
    /// Those with the most of it for a dollar.
    MostForADollar,
}

/// An order to rent.
#[derive(Debug, Clone, PartialEq)]
pub struct RentRequest {
    /// What to rent.
    pub offer: OfferId,
    /// Unique label by which the instance is found again after a lost answer.
    pub label: String,
    /// Container image.
    pub image: String,
    /// Disk in GB, fixed for life.
    pub disk_gb: f64,
    /// Shell text that the box runs at every start.
    pub onstart: String,
    /// Environment of the container.
    pub env: Vec<(String, String)>,
    /// Bid for an interruptible instance, $/h; `None`: on-demand.
    pub bid_usd_per_hour: Option<f64>,
    /// What its container is made with beside the image.
    pub container: Container,
}

/// What a container is made with beside its image.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Container {
    /// Login for the registry of the image.
    pub login: Option<ImageLogin>,
    /// Ports that are opened beside ssh's, as `8080` or `5000/udp`. They are fixed for life.
    pub ports: Vec<String>,
    /// Further options of docker, such as `--shm-size=16g`.
    pub docker_options: Option<String>,
    /// Template whose image, environment and set-up are taken where the request names none.
    pub template: Option<String>,
    /// Volume that it mounts, which lies on the machine of the offer.
    pub volume: Option<volumes::Mount>,
}

/// Login for the registry of a private image. The password is never printed, and wiped when dropped.
#[derive(Clone, PartialEq, Zeroize, ZeroizeOnDrop)]
pub struct ImageLogin {
    /// Host of the registry.
    pub registry: String,
    /// User there.
    pub user: String,
    /// Password, or a token in its place.
    pub password: String,
}

impl std::fmt::Debug for ImageLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ImageLogin({} at {})", self.user, self.registry)
    }
}

/// What the provider wants an instance to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Intended {
    /// To run.
    Running,
    /// To be stopped: by us, or because the market took it back.
    Stopped,
    /// Paused in memory; GPU still billed.
    Frozen,
}

/// What an instance is, as the provider last heard. Every documented status has its own value, so that the table in
/// `run` has a row for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Actual {
    /// No status yet.
    Provisioning,
    /// Container made.
    Created,
    /// Image is pulled or the container starts.
    Loading,
    /// Runs.
    Running,
    /// Stopped.
    Stopped,
    /// Paused in memory.
    Frozen,
    /// The container's process ended; also what a stopped or interrupted one shows.
    Exited,
    /// Restarts on request.
    Rebooting,
    /// Is made anew on request.
    Recycling,
    /// No recent word from the host.
    Unknown,
    /// The host is disconnected.
    Offline,
    /// Its container cannot be made or started.
    Error,
}

/// An address at which ssh may answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshAddress {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Goes through the provider's proxy.
    pub proxy: bool,
}

/// What we rent; it costs money until destroyed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Its number.
    pub id: InstanceId,
    /// Physical machine.
    pub machine_id: u64,
    /// Label, ours or anybody's.
    pub label: Option<String>,
    /// What it should be.
    pub intended: Intended,
    /// What it is.
    pub actual: Actual,
    /// The contract runs: GPU time may be charged.
    pub contract_running: bool,
    /// Waits in the queue for its GPU.
    pub scheduling: bool,
    /// The provider's free text.
    pub status_msg: String,
    /// Interruptible; `None`: the provider does not say just now.
    pub is_bid: Option<bool>,
    /// GPU price now, $/h: the list price or our bid.
    pub gpu_usd_per_hour: f64,
    /// Storage price, $/h.
    pub storage_usd_per_hour: f64,
    /// Disk, GB.
    pub disk_gb: f64,
    /// GPU product name.
    pub gpu_name: String,
    /// GPUs.
    pub num_gpus: u32,
    /// Where ssh may answer, best first.
    pub ssh: Vec<SshAddress>,
    /// When the contract began, seconds since the epoch.
    pub start_s: f64,
    /// When the contract ends at the latest, seconds since the epoch; `None`: not known.
    pub end_s: Option<f64>,
    /// Since when the container runs, seconds since the epoch; `None`: not known, or it does not.
    pub up_since_s: Option<f64>,
    /// What its GPU is charged now, $/h; `None`: the provider does not say.
    pub charged_gpu_usd_per_hour: Option<f64>,
    /// Download bandwidth of its host, Mb/s; 0: not known.
    pub inet_down_mbps: f64,
    /// What its host takes for a download, $/GB; 0: nothing, or not known.
    pub inet_down_usd_per_gb: f64,
    /// What its host takes for an upload, $/GB; 0: nothing, or not known.
    pub inet_up_usd_per_gb: f64,
}

/// The account.
#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    /// Its number.
    pub id: u64,
    /// Spendable credit in dollars.
    pub credit_usd: f64,
}

/// What was bought by paying for a box in advance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prepaid {
    /// For how long its price is cut, months of 720 h; `None`: the provider does not say.
    pub months: Option<f64>,
    /// By which share.
    pub discount: f64,
}

/// What the provider charged for one instance over a time.
#[derive(Debug, Clone, PartialEq)]
pub struct Charge {
    /// Instance.
    pub instance: InstanceId,
    /// GPU time, dollars.
    pub gpu_usd: f64,
    /// Storage, dollars.
    pub disk_usd: f64,
    /// Traffic, dollars.
    pub bandwidth_usd: f64,
}

impl Charge {
    /// All of it.
    pub fn total_usd(&self) -> f64 {
        self.gpu_usd + self.disk_usd + self.bandwidth_usd
    }
}

/// A look at a disk from outside its box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskLook {
    /// Names, owners and sizes.
    List,
    /// Kibibytes in all.
    Size,
}

/// A directory on the disk of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskPath<'a> {
    /// Whose disk.
    pub instance: InstanceId,
    /// Absolute.
    pub path: &'a str,
}

/// A market. Reads are repeated by the implementation where safe; a rent is never repeated by it.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Short name, such as `vast`.
    fn name(&self) -> &'static str;
    /// Base URL, for the box's own switch.
    fn base_url(&self) -> String;
    /// Proves the key.
    async fn account(&self) -> Result<Account, ProviderError>;
    /// Offers that match, cheapest first, one row per offer.
    async fn offers(&self, query: &OfferQuery) -> Result<Vec<Offer>, ProviderError>;
    /// Rents. Never repeated: after an ambiguous error look for the label.
    async fn rent(&self, request: &RentRequest) -> Result<InstanceId, ProviderError>;
    /// Every instance of the account, pages followed. An answer that is not a list is an error, never an empty fleet.
    async fn instances(&self) -> Result<Vec<Instance>, ProviderError>;
    /// One instance; `None` when the provider says that it does not exist.
    async fn instance(&self, id: InstanceId) -> Result<Option<Instance>, ProviderError>;
    /// Starts a stopped one. `false`: queued until its GPU is free.
    async fn start(&self, id: InstanceId) -> Result<bool, ProviderError>;
    /// Stops it; the disk stays and costs storage.
    async fn stop(&self, id: InstanceId) -> Result<(), ProviderError>;
    /// Ends it for good. Success when it is already gone.
    async fn destroy(&self, id: InstanceId) -> Result<(), ProviderError>;
    /// Changes the bid, $/h for the whole box.
    async fn change_bid(&self, id: InstanceId, usd_per_hour: f64) -> Result<(), ProviderError>;
    /// Gives it the label by which it is known to be ours. Where nothing can be labelled, it is known by other means.
    async fn set_label(&self, _id: InstanceId, _label: &str) -> Result<(), ProviderError> {
        Ok(())
    }
    /// Stops its container and starts it again: disk, GPU and price stay.
    async fn reboot(&self, _id: InstanceId) -> Result<(), ProviderError> {
        Err(ProviderError::cannot("reboot instance"))
    }
    /// Makes its container anew from a freshly pulled image: GPU and price stay, the disk is lost.
    async fn recycle(&self, _id: InstanceId) -> Result<(), ProviderError> {
        Err(ProviderError::cannot("recycle instance"))
    }
    /// Pays for it in advance, for a lower price. Never repeated: the money is gone when it was done.
    async fn prepay(&self, _id: InstanceId, _usd: f64) -> Result<Prepaid, ProviderError> {
        Err(ProviderError::cannot("prepay instance"))
    }
    /// What `ls -la` or `du -s` print of a path on its disk, whether it runs or is stopped.
    async fn look_at_disk(
        &self,
        _id: InstanceId,
        _look: DiskLook,
        _path: &str,
    ) -> Result<String, ProviderError> {
        Err(ProviderError::cannot("execute"))
    }
    /// Begins to copy what is in a directory of one instance to a directory of another. Nothing tells when it is done.
    async fn copy(&self, _from: DiskPath<'_>, _to: DiskPath<'_>) -> Result<(), ProviderError> {
        Err(ProviderError::cannot("copy"))
    }
    /// Volumes of the account.
    async fn volumes(&self) -> Result<Vec<Volume>, ProviderError> {
        Err(ProviderError::cannot("list volumes"))
    }
    /// Machines with room for a volume, cheapest first.
    async fn volume_offers(&self, _query: &VolumeQuery) -> Result<Vec<VolumeOffer>, ProviderError> {
        Err(ProviderError::cannot("search volumes"))
    }
    /// Rents a volume of so many GB under a name. Never repeated: after an ambiguous error look for the name.
    async fn rent_volume(
        &self,
        _offer: u64,
        _size_gb: f64,
        _name: &str,
    ) -> Result<VolumeId, ProviderError> {
        Err(ProviderError::cannot("create volume"))
    }
    /// Gives a volume back, and with it what lies on it. Success when it is already gone; refused while a box mounts it.
    async fn end_volume(&self, _id: VolumeId) -> Result<(), ProviderError> {
        Err(ProviderError::cannot("delete volume"))
    }
    /// Ends the copies to an instance that are under way.
    async fn cancel_copy(&self, _to: InstanceId) -> Result<(), ProviderError> {
        Err(ProviderError::cannot("cancel copy"))
    }
    /// Lets a public key in. Success when it is already there, and where keys are not the provider's business.
    async fn attach_key(&self, _id: InstanceId, _public_key: &str) -> Result<(), ProviderError> {
        Ok(())
    }
    /// Makes the account know a public key, so that new instances let it in. Success when it is already there, and where keys are
    /// not the provider's business.
    async fn register_key(&self, _public_key: &str) -> Result<(), ProviderError> {
        Ok(())
    }
    /// Takes every key that `is_old` knows from the account and from an instance. Answers how many there were.
    async fn forget_keys(
        &self,
        _id: InstanceId,
        _is_old: &(dyn for<'a> Fn(&'a str) -> bool + Send + Sync),
    ) -> Result<u32, ProviderError> {
        Ok(0)
    }
    /// Last lines that the container of an instance, or its host while it makes one, has printed; nothing where none are kept.
    async fn container_log(&self, _id: InstanceId, _tail: u32) -> Result<String, ProviderError> {
        Ok(String::new())
    }
    /// Charges of the given instances since a time (seconds since the epoch).
    async fn charges(
        &self,
        since_s: f64,
        instances: &[InstanceId],
    ) -> Result<Vec<Charge>, ProviderError>;
}
