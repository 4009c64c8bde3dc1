//! A machine, its GPUs, who holds them, and the offers made of the free ones.

use serde::Serialize;

use crate::market::{InstanceId, Millis};

/// The market's month: 30 days of 24 hours.
pub const HOURS_PER_MONTH: f64 = 720.0;

/// $/h for a disk, from $/GB/month.
pub fn storage_usd_per_hour(usd_per_gb_month: f64, disk_gb: f64) -> f64 {
    usd_per_gb_month * disk_gb / HOURS_PER_MONTH
}

/// A GPU product.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GpuModel {
    /// Product name, with spaces.
    pub name: &'static str,
    /// Memory as NVML reports it, MiB (the market calls them MB).
    pub ram_mb: u64,
    /// Memory bandwidth as the host measured it, GB/s.
    pub mem_bw_gbps: f64,
    /// NVLink bandwidth, GB/s; 0: none.
    pub nvlink_gbps: f64,
    /// Board power, W.
    pub max_power_w: f64,
    /// Throttling temperature, degrees Celsius.
    pub max_temp_c: f64,
    /// CUDA compute capability x 100.
    pub compute_cap: u32,
    /// fp32 TFLOPS of one GPU, which is what the market calls `total_flops`.
    pub tflops: f64,
    /// DLPerf score of one GPU.
    pub dlperf: f64,
}

/// What a machine is; only the end of its listing changes, on request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MachineSpec {
    /// Number of the machine.
    pub id: u64,
    /// Number of its owner.
    pub host_id: u64,
    /// Number of its hardware bundle.
    pub bundle_id: u64,
    /// True: in a data centre.
    pub datacenter: bool,
    /// Product of all its GPUs.
    pub gpu: GpuModel,
    /// GPUs in the machine.
    pub num_gpus: usize,
    /// Number of its first GPU; the others follow.
    pub first_gpu_id: u64,
    /// Processor.
    pub cpu_name: &'static str,
    /// Hardware threads of the machine.
    pub cpu_cores: u32,
    /// Base clock, GHz.
    pub cpu_ghz: f64,
    /// RAM of the machine, MB.
    pub cpu_ram_mb: u64,
    /// Mainboard.
    pub mobo_name: &'static str,
    /// Ubuntu version of the host.
    pub os_version: &'static str,
    /// PCIe generation.
    pub pci_gen: f64,
    /// Measured PCIe bandwidth, GB/s.
    pub pcie_bw_gbps: f64,
    /// Disk product.
    pub disk_name: &'static str,
    /// Disk that can be rented when nobody rents, GB.
    pub disk_gb: f64,
    /// Read bandwidth of the disk, MB/s.
    pub disk_bw_mbps: f64,
    /// Upload, Mb/s.
    pub inet_up_mbps: f64,
    /// Download, Mb/s.
    pub inet_down_mbps: f64,
    /// Upload price, $/GB.
    pub inet_up_usd_per_gb: f64,
    /// Download price, $/GB.
    pub inet_down_usd_per_gb: f64,
    /// Address that offers show.
    pub public_ipaddr: String,
    /// The address does not change.
    pub static_ip: bool,
    /// Open ports on the router.
    pub direct_port_count: u32,
    /// Region and two-letter country code, such as `Quebec, CA`.
    pub geolocation: &'static str,
    /// `verified`, `unverified` or `deverified`.
    pub verification: &'static str,
    /// Measured reliability, 0 to 1.
    pub reliability: f64,
    /// NVIDIA driver.
    pub driver_version: &'static str,
    /// Highest CUDA version of the driver.
    pub cuda_max_good: f64,
    /// Start of the listing.
    pub start_ms: Millis,
    /// End of the listing: no contract outlives it.
    pub end_ms: Millis,
    /// On-demand price of one GPU, $/h.
    pub gpu_usd_per_hour: f64,
    /// Lowest bid for one GPU, $/h.
    pub min_bid_usd_per_hour: f64,
    /// Storage price, $/GB/month.
    pub storage_usd_per_gb_month: f64,
}

/// Who holds a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Occupant {
    /// It can be rented.
    Nobody,
    /// One of our instances.
    Instance(InstanceId),
    /// Somebody else.
    Rival(u64),
}

/// A tenant that is not one of our accounts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rival {
    /// Its number.
    pub id: u64,
    /// What it bids for all its GPUs, $/h; `None`: on-demand, which no bid beats.
    pub bid_usd_per_hour: Option<f64>,
    /// When it leaves by itself.
    pub until_ms: Option<Millis>,
}

/// An offer: free GPUs under a number that is used once.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Listing {
    /// Number of the offer.
    pub id: u64,
    /// Which GPUs, by index in the machine.
    pub gpus: Vec<usize>,
}

/// A machine and who is on it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Machine {
    /// What it is.
    pub spec: MachineSpec,
    /// Who holds each GPU.
    pub slots: Vec<Occupant>,
    /// Offers.
    pub listings: Vec<Listing>,
    /// Tenants that are not ours.
    pub rivals: Vec<Rival>,
    /// The host lost power or network.
    pub offline: bool,
    /// Its listing has ended: nothing is rented or started on it any more.
    pub ended: bool,
    /// Where holders can be outbid: what it takes to have all of it, $/h. Its offers are listed whoever holds it.
    pub beatable_usd_per_hour: Option<f64>,
}

impl Machine {
    /// An empty machine; the market lists its offers.
    pub fn new(spec: MachineSpec) -> Self {
        let slots = vec![Occupant::Nobody; spec.num_gpus];
        Self {
            spec,
            slots,
            listings: Vec::new(),
            rivals: Vec::new(),
            offline: false,
            ended: false,
            beatable_usd_per_hour: None,
        }
    }

    /// Lowest bid that has so many of its GPUs, $/h.
    pub fn price_to_beat(&self, gpus: usize) -> f64 {
        let floor = self.spec.min_bid_usd_per_hour * gpus as f64;
        self.beatable_usd_per_hour.unwrap_or(floor)
    }

    /// One offer for each power of two of GPUs that can be had, on the first aligned block that is free.
    ///
    /// An offer stays under its number for as long as its GPUs are free, and gets no second number afterwards.
    pub fn relist(&mut self, mut next_id: impl FnMut() -> u64) {
        let slots = &self.slots;
        let beatable = self.beatable_usd_per_hour.is_some();
        let is_free = |gpus: &[usize]| {
            let nobodys = |gpu: &usize| slots[*gpu] == Occupant::Nobody;
            beatable || gpus.iter().all(nobodys)
        };
        if self.offline || self.ended {
            self.listings.clear();
            return;
        }
        self.listings.retain(|listing| is_free(&listing.gpus));
        let mut size = 1;
        while size <= slots.len() {
            let listed = self
                .listings
                .iter()
                .any(|listing| listing.gpus.len() == size);
            let block = (0..slots.len() / size)
                .map(|block| (block * size..(block + 1) * size).collect::<Vec<_>>())
                .find(|gpus| is_free(gpus));
            if let Some(gpus) = block.filter(|_| !listed) {
                self.listings.push(Listing {
                    id: next_id(),
                    gpus,
                });
            }
            size *= 2;
        }
    }
}

impl MachineSpec {
    /// Two-letter country code.
    pub fn country(&self) -> &'static str {
        self.geolocation
            .rsplit(", ")
            .next()
            .unwrap_or(self.geolocation)
    }

    /// Share of the machine that comes with this many GPUs.
    pub fn share(&self, gpus: usize) -> f64 {
        gpus as f64 / self.num_gpus as f64
    }

    /// RAM that comes with this many GPUs, MB.
    pub fn ram_share_mb(&self, gpus: usize) -> f64 {
        self.cpu_ram_mb as f64 * self.share(gpus)
    }
}
