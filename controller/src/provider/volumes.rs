//! Volumes: disks of one machine, of fixed size, that outlive the boxes which mount them. They are paid for by the month until they are
//! given back, whether anything uses them or not.

use serde::Serialize;

use super::{Filter, InstanceId};

/// Number of a volume, for as long as it exists.
pub type VolumeId = u64;

/// A volume of the account.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Volume {
    /// Its number.
    pub id: VolumeId,
    /// What its owner calls it.
    pub name: Option<String>,
    /// The machine that it lies on: only boxes there can mount it.
    pub machine_id: u64,
    /// Its size, GB.
    pub size_gb: f64,
    /// Boxes that mount it, running or stopped. It cannot be given back while there are any.
    pub instances: Vec<InstanceId>,
    /// The provider calls it in use, whether or not it says by whom.
    pub in_use: bool,
    /// What it costs, $/h; `None`: the provider does not say.
    pub usd_per_hour: Option<f64>,
    /// Since when it is paid for, seconds since the epoch; `None`: not known.
    pub start_s: Option<f64>,
}

/// What to look for among machines that have room for a volume.
#[derive(Debug, Clone, PartialEq)]
pub struct VolumeQuery {
    /// Size that there must be room for and that prices are computed for, GB.
    pub size_gb: f64,
    /// Further conditions, in the market's field names.
    pub filters: Vec<Filter>,
}

/// Room for a volume on a machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VolumeOffer {
    /// Number of the offer.
    pub id: u64,
    /// The machine.
    pub machine_id: u64,
    /// Room that it has at most, GB.
    pub free_gb: f64,
    /// Price of the asked size, $/h.
    pub usd_per_hour: f64,
    /// Reliability of the host, 0 to 1.
    pub reliability: f64,
    /// Download bandwidth, Mb/s.
    pub inet_down_mbps: f64,
    /// Read bandwidth of its disk, MB/s.
    pub disk_mb_per_s: f64,
    /// Country or region.
    pub geolocation: String,
}

/// A volume that a box mounts from its first start on.
#[derive(Debug, Clone, PartialEq)]
pub struct Mount {
    /// Which one.
    pub volume: VolumeId,
    /// Where, absolute.
    pub path: String,
}
