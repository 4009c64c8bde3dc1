//! A market in memory, on the runtime's clock: prices, interruptions and lost answers on request. For tests.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{
    Account, Actual, Charge, Instance, InstanceId, Intended, Offer, OfferId, OfferQuery, Prepaid,
    Provider, ProviderError, RentRequest, Rental, SshAddress,
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
        })))
    }

    /// The next `count` rents are carried out, but their answers are lost.
    pub fn lose_create_answers(&self, count: u32) {
        self.state().lose_answers = count;
    }

    /// The answer to the next rent is lost at once, and it is carried out only this much later.
    pub fn carry_out_late(&self, delay: Duration) {
        self.state().late_creates = Some(delay);
    }

    /// The next rent takes this long, and is carried out even if nobody waits for its answer.
    pub fn carry_out_slowly(&self, delay: Duration) {
        self.state().slow_creates = Some(delay);
    }

    /// The next rent is carried out at once, and its answer takes this long.
    pub fn answer_slowly(&self, delay: Duration) {
        self.state().slow_answers = Some(delay);
    }

    /// The next `count` looks at an instance say that it does not exist.
    pub fn deny_instances(&self, count: u32) {
        self.state().nulls = count;
    }

    /// The next `count` rents are carried out twice.
    pub fn rent_twice(&self, count: u32) {
        self.state().twins = count;
    }

    /// The price of the next `count` offers that are bid for rose since they were listed: the bid is refused, and a stopped box is
    /// made all the same.
    pub fn raise_floors(&self, count: u32) {
        self.state().low_bids = count;
    }

    /// What has to be bid for one GPU from now on, $/h.
    pub fn ask(&self, usd_per_hour: f64) {
        self.state().floor_usd_per_hour = usd_per_hour;
    }

    /// A stopped box that is started waits in the queue for its GPU.
    pub fn queue_starts(&self) {
        self.state().queue_starts = true;
    }

    /// Searches show what has to be bid for boxes that rivals hold.
    pub fn list_rivals(&self) {
        self.state().lists_rivals = true;
    }

    /// The next `count` calls of this operation are answered with HTTP 503.
    pub fn fail(&self, operation: &'static str, count: u32) {
        self.state().failing.insert(operation, count);
    }

    /// The market gives a box back that it had taken.
    pub fn give_back(&self, id: InstanceId) {
        let mut state = self.state();
        if let Some(rented) = state.rented.get_mut(&id) {
            rented.run();
        }
    }

    /// Somebody destroys a box in the provider's console.
    pub fn vanish(&self, id: InstanceId) {
        let mut state = self.state();
        if let Some(rented) = state.rented.get_mut(&id) {
            rented.close();
            rented.instance.contract_running = false;
            rented.destroyed.get_or_insert_with(Instant::now);
        }
    }

    /// The next box that is rented is like this whenever somebody looks at it; the one after it like the next of these.
    pub fn spoil_next(&self, spoil: fn(&mut Instance)) {
        self.state().spoils.push_back(spoil);
    }

    /// From now on a restart of its container mends whatever is wrong with a box.
    pub fn mend_by_restart(&self) {
        self.state().mends = true;
    }

    /// Restarts of containers that were asked for, in order.
    pub fn restarts(&self) -> Vec<(&'static str, InstanceId)> {
        self.state().restarts.clone()
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

    /// What containers have printed.
    pub fn set_container_log(&self, text: &str) {
        self.state().container_log = text.to_owned();
    }

    /// What the account has left, dollars.
    pub fn set_credit(&self, usd: f64) {
        self.state().credit_usd = usd;
    }

    /// Lists every machine again that nobody rents.
    pub fn relist(&self) {
        let mut state = self.state();
        let taken: Vec<u64> = state
            .rented
            .values()
            .filter(|rented| rented.destroyed.is_none())
            .map(|rented| rented.instance.machine_id)
            .chain(state.offers.iter().map(|offer| offer.machine_id))
            .collect();
        let free = state.machines;
        let again = (1..=free)
            .filter(|machine| !taken.contains(machine))
            .map(offer);
        let again: Vec<Offer> = again.collect();
        state.offers.extend(again);
    }

    /// Machines with more GPUs than one, at as many times the price.
    pub fn add_machines(&self, count: u64, num_gpus: u32) {
        let mut state = self.state();
        let first = state.offers.iter().map(|offer| offer.id).max();
        let first = first.unwrap_or(state.machines).max(state.machines) + 1;
        let machines = (first..first + count).map(|machine| Offer {
            num_gpus,
            gpu_usd_per_hour: 0.40 * f64::from(num_gpus),
            ..offer(machine)
        });
        state.offers.extend(machines);
    }

    /// A listed offer is like this from now on.
    pub fn change_offer(&self, offer: OfferId, change: impl FnOnce(&mut Offer)) {
        let mut state = self.state();
        if let Some(found) = state.offers.iter_mut().find(|found| found.id == offer) {
            change(found);
        }
    }

    /// Somebody else rents this offer between search and create.
    pub fn snatch(&self, offer: OfferId) {
        self.state().gone.push(offer);
    }

    /// No call gets an answer until switched back.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.state().unreachable = unreachable;
    }

    /// The market takes an instance back: somebody pays more.
    pub fn outbid(&self, id: InstanceId) {
        let mut state = self.state();
        if let Some(rented) = state.rented.get_mut(&id) {
            rented.close();
            rented.instance.intended = Intended::Stopped;
            rented.instance.contract_running = false;
            rented.instance.actual = Actual::Exited;
        }
    }

    /// Somebody holds the GPU of a box that was taken back for this much, $/h: a start below it waits in the queue.
    pub fn set_rival(&self, id: InstanceId, usd_per_hour: f64) {
        let mut state = self.state();
        if let Some(rented) = state.rented.get_mut(&id) {
            rented.rival_usd_per_hour = Some(usd_per_hour);
        }
    }

    /// The host is gone: `offline`, while the contract says running.
    pub fn lose_host(&self, id: InstanceId) {
        let mut state = self.state();
        if let Some(rented) = state.rented.get_mut(&id) {
            rented.close();
            rented.instance.actual = Actual::Offline;
        }
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
            id,
            machine_id: offer.machine_id,
            label: Some(request.label.clone()),
            intended: Intended::Running,
            actual: Actual::Loading,
            contract_running: true,
            scheduling: false,
            status_msg: String::new(),
            is_bid: request.bid_usd_per_hour.is_some(),
            gpu_usd_per_hour: request.bid_usd_per_hour.unwrap_or(offer.gpu_usd_per_hour),
            storage_usd_per_hour: offer.storage_usd_per_hour,
            disk_gb: request.disk_gb,
            gpu_name: offer.gpu_name,
            num_gpus: offer.num_gpus,
            ssh: Vec::new(),
            start_s: 0.0,
            end_s: None,
            up_since_s: None,
            charged_gpu_usd_per_hour: None,
            inet_down_mbps: 0.0,
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
        reliability: 0.99,
        inet_down_mbps: 800.0,
        inet_up_mbps: 800.0,
        nvlink_gbps: 0.0,
        cuda: 12.8,
        compute_cap: 890,
        verified: true,
        datacenter: false,
        geolocation: "Nowhere".to_owned(),
        max_duration_s: 30.0 * 86_400.0,
        direct_ports: 100,
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

#[async_trait]
impl Provider for MemoryMarket {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn base_url(&self) -> String {
        "http://memory.invalid".to_owned()
    }

    async fn account(&self) -> Result<Account, ProviderError> {
        drop(self.reach("show user")?);
        Ok(Account {
            id: 1,
            credit_usd: self.state().credit_usd,
        })
    }

    async fn offers(&self, query: &OfferQuery) -> Result<Vec<Offer>, ProviderError> {
        let state = self.reach("search offers")?;
        let mut offers: Vec<Offer> = state.offers.clone();
        offers.retain(|offer| query.num_gpus.is_none_or(|wanted| wanted == offer.num_gpus));
        for offer in &mut offers {
            if query.rental == Rental::Interruptible {
                let price = state.floor_usd_per_hour * f64::from(offer.num_gpus);
                offer.gpu_usd_per_hour = price;
                offer.min_bid_usd_per_hour = Some(price);
            }
        }
        let taken = state.rented.values().filter(|_| state.lists_rivals);
        for rented in taken.filter(|rented| rented.destroyed.is_none()) {
            let Some(rival) = rented.rival_usd_per_hour else {
                continue;
            };
            let price = rival + 0.001;
            offers.push(Offer {
                gpu_usd_per_hour: price,
                min_bid_usd_per_hour: Some(price),
                ..offer(rented.instance.machine_id)
            });
        }
        offers.truncate(query.limit as usize);
        Ok(offers)
    }

    async fn rent(&self, request: &RentRequest) -> Result<InstanceId, ProviderError> {
        let operation = "create instance";
        let (late, slow, slow_answer, twice) = {
            let mut state = self.reach(operation)?;
            let twice = state.twins > 0;
            state.twins = state.twins.saturating_sub(1);
            let slow_answer = state.slow_answers.take();
            (
                state.late_creates.take(),
                state.slow_creates.take(),
                slow_answer,
                twice,
            )
        };
        if let Some(delay) = late {
            drop(self.rent_after(request, delay));
            let message = "connection closed before the answer".to_owned();
            return Err(ProviderError::Unreachable { operation, message });
        }
        if let Some(delay) = slow {
            let answer = self.rent_after(request, delay);
            return answer.await.expect("a rent does not panic");
        }
        let answer = self.rent_now(request);
        if twice {
            let mut twin = request.clone();
            let last = self.state().offers.last().map(|offer| offer.id);
            twin.offer = last.unwrap_or(request.offer);
            self.rent_now(&twin)?;
        }
        if let Some(delay) = slow_answer {
            tokio::time::sleep(delay).await;
        }
        answer
    }

    async fn instances(&self) -> Result<Vec<Instance>, ProviderError> {
        drop(self.reach("list instances")?);
        Ok(self.alive())
    }

    async fn instance(&self, id: InstanceId) -> Result<Option<Instance>, ProviderError> {
        let mut state = self.reach("show instance")?;
        if state.nulls > 0 {
            state.nulls -= 1;
            return Ok(None);
        }
        Ok(state
            .rented
            .get(&id)
            .filter(|r| r.destroyed.is_none())
            .map(Rented::view))
    }

    async fn start(&self, id: InstanceId) -> Result<bool, ProviderError> {
        let mut state = self.reach("start instance")?;
        if state.queue_starts {
            return Ok(false);
        }
        let Some(rented) = state.rented.get_mut(&id) else {
            return Ok(true);
        };
        let bid = rented.instance.gpu_usd_per_hour;
        if rented.rival_usd_per_hour.is_some_and(|rival| bid <= rival) {
            rented.instance.intended = Intended::Running;
            rented.instance.scheduling = true;
            return Ok(false);
        }
        rented.run();
        Ok(true)
    }

    async fn stop(&self, id: InstanceId) -> Result<(), ProviderError> {
        let mut state = self.reach("stop instance")?;
        if let Some(rented) = state.rented.get_mut(&id) {
            rented.close();
            rented.instance.intended = Intended::Stopped;
            rented.instance.scheduling = false;
            rented.instance.contract_running = false;
            rented.instance.actual = Actual::Exited;
        }
        Ok(())
    }

    async fn destroy(&self, id: InstanceId) -> Result<(), ProviderError> {
        let mut state = self.reach("destroy instance")?;
        if let Some(rented) = state.rented.get_mut(&id) {
            rented.close();
            rented.instance.contract_running = false;
            rented.destroyed.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    async fn change_bid(&self, id: InstanceId, usd_per_hour: f64) -> Result<(), ProviderError> {
        let mut state = self.reach("change bid")?;
        if let Some(rented) = state.rented.get_mut(&id) {
            rented.instance.gpu_usd_per_hour = usd_per_hour;
        }
        Ok(())
    }

    async fn reboot(&self, id: InstanceId) -> Result<(), ProviderError> {
        self.restart("reboot instance", id)
    }

    async fn recycle(&self, id: InstanceId) -> Result<(), ProviderError> {
        self.restart("recycle instance", id)
    }

    async fn prepay(&self, _id: InstanceId, usd: f64) -> Result<Prepaid, ProviderError> {
        let mut state = self.reach("prepay instance")?;
        if usd > state.credit_usd {
            let message = "Insufficient credit".to_owned();
            return Err(ProviderError::NoCredit { message });
        }
        state.credit_usd -= usd;
        Ok(Prepaid {
            months: Some(usd / 100.0),
            discount: 0.2,
        })
    }

    async fn attach_key(&self, _id: InstanceId, _public_key: &str) -> Result<(), ProviderError> {
        self.reach("attach ssh key").map(drop)
    }

    async fn register_key(&self, _public_key: &str) -> Result<(), ProviderError> {
        self.reach("create ssh key").map(drop)
    }

    async fn container_log(&self, _id: InstanceId, _tail: u32) -> Result<String, ProviderError> {
        drop(self.reach("request logs")?);
        Ok(self.state().container_log.clone())
    }

    async fn charges(
        &self,
        _since_s: f64,
        instances: &[InstanceId],
    ) -> Result<Vec<Charge>, ProviderError> {
        let state = self.reach("show charges")?;
        let charge = |id: &InstanceId| {
            let rented = state.rented.get(id)?;
            let open = rented
                .gpu_since
                .map_or(Duration::ZERO, |since| since.elapsed());
            let gpu_h = (rented.gpu + open).as_secs_f64() / 3600.0;
            let end = rented.destroyed.unwrap_or_else(Instant::now);
            let disk_h = end.duration_since(rented.created).as_secs_f64() / 3600.0;
            Some(Charge {
                instance: *id,
                gpu_usd: gpu_h * rented.instance.gpu_usd_per_hour,
                disk_usd: disk_h * rented.instance.storage_usd_per_hour,
                bandwidth_usd: 0.0,
            })
        };
        Ok(instances.iter().filter_map(charge).collect())
    }
}
