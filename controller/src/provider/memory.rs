//! A market in memory, on the runtime's clock, for tests. What a story does to it is in [`faults`].

mod answers;
mod disks;
mod faults;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;

use self::disks::Disks;
use super::{
    Actual, Instance, InstanceId, Intended, Offer, OfferId, ProviderError, RentRequest, SshAddress,
};

/// From a create to `running`.
const LOADING: Duration = Duration::from_secs(30);

/// The market; clones share it.
#[derive(Debug, Clone)]
pub struct MemoryMarket(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    machines: u64,
    offers: Vec<Offer>,
    floor_usd_per_hour: f64,
    rented: BTreeMap<InstanceId, Rented>,
    next_id: InstanceId,
    lose_answers: u32,
    late_creates: Option<Duration>,
    slow_creates: Option<Duration>,
    slow_answers: Option<Duration>,
    nulls: u32,
    twins: u32,
    low_bids: u32,
    queue_starts: bool,
    lists_rivals: bool,
    gone: Vec<OfferId>,
    unreachable: bool,
    failing: BTreeMap<&'static str, u32>,
    spoils: VecDeque<fn(&mut Instance)>,
    container_log: String,
    restarts: Vec<(&'static str, InstanceId)>,
    mends: bool,
    credit_usd: f64,
    disks: Disks,
}

#[derive(Debug)]
struct Rented {
    instance: Instance,
    created: Instant,
    /// GPU time already closed, and the start of the open interval.
    gpu: Duration,
    gpu_since: Option<Instant>,
    destroyed: Option<Instant>,
    /// What somebody else pays for its GPU.
    rival_usd_per_hour: Option<f64>,
    /// What is wrong with it, whenever somebody looks.
    spoil: Option<fn(&mut Instance)>,
}

impl MemoryMarket {
    /// A market with `machines` identical single-GPU machines, offered at $0.40/h on demand and from $0.20/h by bid.
    pub fn new(machines: u64) -> Self {
        let offers = (1..=machines).map(offer).collect();
        Self(Arc::new(Mutex::new(State {
            machines,
            offers,
            floor_usd_per_hour: 0.20,
            rented: BTreeMap::new(),
            next_id: 1000,
            lose_answers: 0,
            late_creates: None,
            slow_creates: None,
            slow_answers: None,
            nulls: 0,
            twins: 0,
            low_bids: 0,
            queue_starts: false,
            lists_rivals: false,
            gone: Vec::new(),
            unreachable: false,
            failing: BTreeMap::new(),
            spoils: VecDeque::new(),
            container_log: String::new(),
            restarts: Vec::new(),
            mends: false,
            credit_usd: 100.0,
            disks: Disks::default(),
        })))
    }

    fn restart(&self, operation: &'static str, id: InstanceId) -> Result<(), ProviderError> {
        let mut state = self.reach(operation)?;
        state.restarts.push((operation, id));
        let mends = state.mends;
        if let Some(rented) = state.rented.get_mut(&id).filter(|_| mends) {
            rented.spoil = None;
        }
        Ok(())
    }

    /// Instances that exist.
    pub fn alive(&self) -> Vec<Instance> {
        self.state()
            .rented
            .values()
            .filter(|r| r.destroyed.is_none())
            .map(Rented::view)
            .collect()
    }

    /// Instances that cost GPU time right now.
    pub fn gpu_charged(&self) -> usize {
        self.state()
            .rented
            .values()
            .filter(|r| r.view().contract_running && r.destroyed.is_none())
            .count()
    }

    /// A rent that goes on by itself.
    fn rent_after(
        &self,
        request: &RentRequest,
        delay: Duration,
    ) -> tokio::task::JoinHandle<Result<InstanceId, ProviderError>> {
        let (market, request) = (self.clone(), request.clone());
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            market.rent_now(&request)
        })
    }

    fn rent_now(&self, request: &RentRequest) -> Result<InstanceId, ProviderError> {
        let mut state = self.state();
        let position = state
            .offers
            .iter()
            .position(|offer| offer.id == request.offer);
        let Some(position) = position.filter(|_| !state.gone.contains(&request.offer)) else {
            return Err(ProviderError::OfferGone {
                offer: request.offer,
                leftover: None,
            });
        };
        if let Some(bid_usd_per_hour) = request.bid_usd_per_hour
            && bid_usd_per_hour < state.floor_usd_per_hour
        {
            let message = format!("the floor is ${:.2}", state.floor_usd_per_hour);
            return Err(ProviderError::BidTooLow {
                bid_usd_per_hour,
                message,
                leftover: None,
            });
        }
        let offer = state.offers.remove(position);
        let id = state.next_id;
        state.next_id += 1;
        let too_low = request.bid_usd_per_hour.filter(|_| state.low_bids > 0);
        let mut instance = Instance {
            machine_id: offer.machine_id,
            label: Some(request.label.clone()),
            actual: Actual::Loading,
            is_bid: Some(request.bid_usd_per_hour.is_some()),
            gpu_usd_per_hour: request.bid_usd_per_hour.unwrap_or(offer.gpu_usd_per_hour),
            storage_usd_per_hour: offer.storage_usd_per_hour,
            disk_gb: request.disk_gb,
            gpu_name: offer.gpu_name,
            num_gpus: offer.num_gpus,
            inet_down_usd_per_gb: offer.inet_down_usd_per_gb,
            inet_up_usd_per_gb: offer.inet_up_usd_per_gb,
            ..instance(id)
        };
        if too_low.is_some() {
            state.low_bids -= 1;
            instance.intended = Intended::Stopped;
            instance.actual = Actual::Created;
            instance.contract_running = false;
        }
        let now = Instant::now();
        let rented = Rented {
            instance,
            created: now,
            gpu: Duration::ZERO,
            gpu_since: too_low.is_none().then_some(now + LOADING),
            destroyed: None,
            rival_usd_per_hour: None,
            spoil: state.spoils.pop_front(),
        };
        state.rented.insert(id, rented);
        if let Some(bid_usd_per_hour) = too_low {
            return Err(ProviderError::BidTooLow {
                bid_usd_per_hour,
                message: "the floor rose".to_owned(),
                leftover: Some(id),
            });
        }
        if state.lose_answers > 0 {
            state.lose_answers -= 1;
            let message = "connection closed before the answer".to_owned();
            return Err(ProviderError::Unreachable {
                operation: "create instance",
                message,
            });
        }
        Ok(id)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder of this lock panics")
    }

    fn reach(&self, operation: &'static str) -> Result<MutexGuard<'_, State>, ProviderError> {
        let mut state = self.state();
        if state.unreachable {
            let message = "the market is switched off".to_owned();
            return Err(ProviderError::Unreachable { operation, message });
        }
        if let Some(left) = state.failing.get_mut(operation).filter(|left| **left > 0) {
            *left -= 1;
            return Err(ProviderError::Refused {
                operation,
                status: 503,
                message: "try again later".to_owned(),
                leftover: None,
            });
        }
        Ok(state)
    }
}

/// An offer of a machine, as every market in memory begins.
pub fn offer(machine: u64) -> Offer {
    Offer {
        id: machine,
        machine_id: machine,
        gpu_name: "RTX 4090".to_owned(),
        num_gpus: 1,
        vram_mib: 24_564,
        ram_mb: 64_000,
        cpu_cores: 16.0,
        disk_gb: 500.0,
        gpu_usd_per_hour: 0.40,
        storage_usd_per_hour: 0.01,
        min_bid_usd_per_hour: None,
        inet_down_usd_per_gb: 0.0,
        inet_up_usd_per_gb: 0.0,
        reliability: Some(0.99),
        inet_down_mbps: 800.0,
        inet_up_mbps: 800.0,
        nvlink_gbps: 0.0,
        cuda: 12.8,
        compute_cap: 890,
        verified: true,
        datacenter: false,
        geolocation: "Nowhere".to_owned(),
        max_duration_s: Some(30.0 * 86_400.0),
        direct_ports: 100,
    }
}

/// A bid-for box that runs, of $0.30/h and $0.01/h for its disk, as tests of prices begin.
pub fn instance(id: InstanceId) -> Instance {
    Instance {
        id,
        machine_id: 1,
        label: None,
        intended: Intended::Running,
        actual: Actual::Running,
        contract_running: true,
        scheduling: false,
        status_msg: String::new(),
        is_bid: Some(true),
        gpu_usd_per_hour: 0.3,
        storage_usd_per_hour: 0.01,
        disk_gb: 40.0,
        gpu_name: String::new(),
        num_gpus: 1,
        ssh: Vec::new(),
        start_s: 0.0,
        end_s: None,
        up_since_s: None,
        charged_gpu_usd_per_hour: None,
        inet_down_mbps: 0.0,
        inet_down_usd_per_gb: 0.0,
        inet_up_usd_per_gb: 0.0,
    }
}

impl Rented {
    fn run(&mut self) {
        self.rival_usd_per_hour = None;
        self.instance.scheduling = false;
        self.instance.intended = Intended::Running;
        self.instance.contract_running = true;
        self.instance.actual = Actual::Running;
        self.gpu_since.get_or_insert_with(Instant::now);
    }

    fn close(&mut self) {
        if let Some(since) = self.gpu_since.take() {
            self.gpu += since.elapsed();
        }
    }

    fn view(&self) -> Instance {
        let mut view = self.instance.clone();
        if view.actual == Actual::Loading && self.created.elapsed() >= LOADING {
            view.actual = Actual::Running;
        }
        if view.actual == Actual::Running {
            view.ssh = vec![SshAddress {
                host: "192.0.2.1".to_owned(),
                port: 22,
                proxy: false,
            }];
        }
        if let Some(spoil) = self.spoil {
            spoil(&mut view);
        }
        view
    }
}
