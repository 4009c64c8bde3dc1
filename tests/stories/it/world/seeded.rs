//! A market that moves by itself: the random market of a seed behind the controller's `Provider`, on the story's clock.
//!
//! What others do, and what boxes cost, is worked out when somebody looks, each thing at its own moment: an order, an outbid and a bill
//! are the same however often that is.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use spotter::provider::{
    Account, Actual, Charge, Instance, InstanceId, Intended, Offer, OfferQuery, Provider,
    ProviderError, RentRequest, Rental, SshAddress, memory,
};
use spotter_sim::{
    market::{Millis, machine::storage_usd_per_hour},
    random_market::{
        RandomMarket,
        tenancy::{Presence, Tenancy},
    },
};
use tokio::time::Instant;

use super::{EPOCH_US, boxes::Fleet};

/// Numbers of instances begin here, and those of offers and machines at 1.
const FIRST_INSTANCE: u64 = 1000;

/// The market; clones share it.
#[derive(Clone)]
pub struct SeededMarket(Arc<Mutex<Market>>);

struct Market {
    tenancy: Tenancy<'static>,
    /// One for each box that was ever rented.
    contracts: Vec<Contract>,
    began: Instant,
    ended: Vec<(InstanceId, Instant)>,
}

/// What the provider says of a box beside what its tenant was promised.
struct Contract {
    label: String,
    disk_gb: f64,
    /// `intended_status` is `running`.
    intends: bool,
    /// Its tenant started it while somebody else had its GPU.
    queued: bool,
    up_since_ms: Option<Millis>,
}

impl SeededMarket {
    /// The market of a seed for `days` days from now on.
    pub fn new(seed: u64, days: u32) -> Self {
        Self(Arc::new(Mutex::new(Market {
            tenancy: Tenancy::of(RandomMarket::new(seed, days)),
            contracts: Vec::new(),
            began: Instant::now(),
            ended: Vec::new(),
        })))
    }

    /// When something may happen next to one of the account's boxes; `None`: nothing does.
    pub fn next_due(&self) -> Option<Instant> {
        let market = self.look();
        market.next_due().map(|due| market.instant(due))
    }

    /// Whether there is anything that can be had for a bid of this.
    pub fn sells_for(&self, usd_per_hour: f64) -> bool {
        let market = self.look();
        let offers = market.tenancy.market().offers(market.now());
        offers
            .first()
            .is_some_and(|offer| offer.min_bid_usd_per_hour <= usd_per_hour)
    }

    /// The bill, dollars, and what is added to it now, $/h.
    pub fn bill(&self) -> (f64, f64) {
        let market = self.look();
        let open = market.tenancy.boxes.iter().filter_map(|rented| {
            let last = rented.bill.intervals.last()?;
            let rate = last.gpu_usd_per_hour + last.storage_usd_per_hour;
            last.end_ms.is_none().then_some(rate)
        });
        (market.tenancy.total_usd(market.now()), open.sum())
    }

    /// Milliseconds for which more than one GPU was charged.
    pub fn charged_twice_ms(&self) -> Millis {
        let market = self.look();
        let now = market.now();
        let bills = market.tenancy.boxes.iter().map(|rented| &rented.bill);
        let mut charged: Vec<(Millis, Millis)> = bills
            .flat_map(|bill| &bill.intervals)
            .filter(|stretch| stretch.gpu_usd_per_hour > 0.0)
            .map(|stretch| (stretch.start_ms, stretch.end_ms.unwrap_or(now)))
            .collect();
        charged.sort_unstable();
        let (mut twice, mut until) = (0, Millis::MIN);
        for (from, to) in charged {
            twice += until.min(to).saturating_sub(from).max(0);
            until = until.max(to);
        }
        twice
    }

    /// How many boxes it ever rented out.
    pub fn rented(&self) -> usize {
        self.look().contracts.len()
    }

    /// With everything that is due done.
    fn look(&self) -> MutexGuard<'_, Market> {
        let mut market = self.0.lock().unwrap();
        market.catch_up();
        market
    }

    fn change(&self, id: InstanceId, change: impl FnOnce(&mut Market, Millis, usize)) {
        let mut market = self.look();
        let index = id.checked_sub(FIRST_INSTANCE).unwrap() as usize;
        if index < market.contracts.len() {
            let now = market.now();
            change(&mut market, now, index);
            market.note(now);
        }
    }
}

impl Market {
    fn now(&self) -> Millis {
        self.began.elapsed().as_millis() as Millis
    }

    fn instant(&self, at: Millis) -> Instant {
        self.began + Duration::from_millis(at.unsigned_abs())
    }

    fn next_due(&self) -> Option<Millis> {
        (0..self.contracts.len())
            .filter_map(|index| self.tenancy.next_of(index))
            .min()
    }

    fn catch_up(&mut self) {
        let now = self.now();
        while let Some(due) = self.next_due().filter(|due| *due <= now) {
            self.tenancy.advance(due);
            self.note(due);
        }
        self.tenancy.advance(now);
    }

    /// What the provider says from a moment on.
    fn note(&mut self, at: Millis) {
        let at_instant = self.instant(at);
        for (index, contract) in self.contracts.iter_mut().enumerate() {
            let up_since_ms = self.tenancy.boxes[index].up_since_ms;
            if contract.up_since_ms.is_some() && contract.up_since_ms != up_since_ms {
                self.ended.push((number(index), at_instant));
            }
            contract.up_since_ms = up_since_ms;
            match self.tenancy.presence(index) {
                Presence::Coming | Presence::Up => {
                    (contract.intends, contract.queued) = (true, false);
                }
                // Nobody tells the contract.
                Presence::Offline => {}
                // Behind an outage it comes back as it was; outbid, it is stopped until it has its machine again.
                Presence::Away => {
                    let comes = contract.intends && self.tenancy.has_its_machine(index);
                    contract.intends = contract.queued || comes;
                }
            }
        }
    }

    fn view(&self, index: usize) -> Instance {
        let (rented, contract) = (&self.tenancy.boxes[index], &self.contracts[index]);
        let presence = self.tenancy.presence(index);
        let (actual, contract_running) = match presence {
            Presence::Coming => (Actual::Loading, true),
            Presence::Up => (Actual::Running, true),
            Presence::Away => (Actual::Exited, false),
            Presence::Offline => (Actual::Offline, contract.intends),
        };
        let ssh = SshAddress {
            host: "192.0.2.1".to_owned(),
            port: 22,
            proxy: false,
        };
        let since_s = |ms: Millis| EPOCH_US as f64 / 1e6 + ms as f64 / 1e3;
        Instance {
            id: number(index),
            machine_id: rented.machine as u64 + 1,
            label: Some(contract.label.clone()),
            intended: match contract.intends {
                true => Intended::Running,
                false => Intended::Stopped,
            },
            actual,
            contract_running,
            scheduling: presence == Presence::Away && contract.intends,
            status_msg: String::new(),
            is_bid: Some(rented.bid_usd_per_hour.is_some()),
            gpu_usd_per_hour: rented.gpu_usd_per_hour(),
            storage_usd_per_hour: rented.storage_usd_per_hour,
            disk_gb: contract.disk_gb,
            gpu_name: "RTX 4090".to_owned(),
            num_gpus: 1,
            ssh: (presence == Presence::Up)
                .then_some(ssh)
                .into_iter()
                .collect(),
            start_s: 0.0,
            end_s: None,
            up_since_s: rented.up_since_ms.map(since_s),
            charged_gpu_usd_per_hour: None,
            // So slow that the whole of `limits.bring_up` is given to the image.
            inet_down_mbps: 100.0,
            inet_down_usd_per_gb: 0.0,
            inet_up_usd_per_gb: 0.0,
        }
    }

    fn alive(&self) -> Vec<Instance> {
        (0..self.contracts.len())
            .filter(|index| self.tenancy.boxes[*index].destroyed_ms.is_none())
            .map(|index| self.view(index))
            .collect()
    }
}

fn number(index: usize) -> InstanceId {
    FIRST_INSTANCE + index as u64
}

impl Fleet for SeededMarket {
    fn alive(&self) -> Vec<Instance> {
        self.look().alive()
    }

    fn ended(&self) -> Vec<(InstanceId, Instant)> {
        std::mem::take(&mut self.look().ended)
    }
}

#[async_trait]
impl Provider for SeededMarket {
    fn name(&self) -> &'static str {
        "seeded"
    }

    fn base_url(&self) -> String {
        "http://seeded.invalid".to_owned()
    }

    async fn account(&self) -> Result<Account, ProviderError> {
        Ok(Account {
            id: 1,
            credit_usd: 10_000.0,
        })
    }

    async fn offers(&self, query: &OfferQuery) -> Result<Vec<Offer>, ProviderError> {
        let market = self.look();
        let shown = market.tenancy.market().offers(market.now());
        let mut offers: Vec<Offer> = shown
            .iter()
            .map(|offered| {
                let bid =
                    (query.rental == Rental::Interruptible).then_some(offered.min_bid_usd_per_hour);
                let month = offered.storage_usd_per_gb_month;
                Offer {
                    gpu_usd_per_hour: bid.unwrap_or(offered.list_usd_per_hour),
                    min_bid_usd_per_hour: bid,
                    storage_usd_per_hour: storage_usd_per_hour(month, query.disk_gb),
                    ..memory::offer(offered.machine as u64 + 1)
                }
            })
            .collect();
        offers.sort_by(|one, other| {
            one.running_usd_per_hour()
                .total_cmp(&other.running_usd_per_hour())
        });
        offers.truncate(query.limit as usize);
        Ok(offers)
    }

    async fn rent(&self, request: &RentRequest) -> Result<InstanceId, ProviderError> {
        let mut market = self.look();
        let now = market.now();
        let machine = request.offer as usize - 1;
        let bid = request.bid_usd_per_hour;
        let for_sale = market.tenancy.market().machines[machine].at(now);
        let (price, offer) = (for_sale.price_to_beat(), request.offer);
        let rented = market.tenancy.rent(now, machine, bid, request.disk_gb);
        let Some(index) = rented else {
            let too_low = bid.filter(|bid| price.is_some_and(|price| *bid < price));
            return Err(match too_low {
                Some(bid_usd_per_hour) => ProviderError::BidTooLow {
                    bid_usd_per_hour,
                    message: "others pay more".to_owned(),
                    leftover: None,
                },
                None => ProviderError::OfferGone {
                    offer,
                    leftover: None,
                },
            });
        };
        market.contracts.push(Contract {
            label: request.label.clone(),
            disk_gb: request.disk_gb,
            intends: true,
            queued: false,
            up_since_ms: None,
        });
        market.note(now);
        Ok(number(index))
    }

    async fn instances(&self) -> Result<Vec<Instance>, ProviderError> {
        Ok(Fleet::alive(self))
    }

    async fn instance(&self, id: InstanceId) -> Result<Option<Instance>, ProviderError> {
        Ok(Fleet::alive(self).into_iter().find(|found| found.id == id))
    }

    async fn start(&self, id: InstanceId) -> Result<bool, ProviderError> {
        let mut has_it = true;
        self.change(id, |market, now, index| {
            if market.tenancy.boxes[index].destroyed_ms.is_some() {
                return;
            }
            market.tenancy.start(now, index);
            has_it = market.tenancy.has_its_machine(index);
            let up = matches!(
                market.tenancy.presence(index),
                Presence::Coming | Presence::Up
            );
            let contract = &mut market.contracts[index];
            (contract.intends, contract.queued) = (true, !up);
        });
        Ok(has_it)
    }

    async fn stop(&self, id: InstanceId) -> Result<(), ProviderError> {
        self.change(id, |market, now, index| {
            market.tenancy.stop(now, index);
            let contract = &mut market.contracts[index];
            (contract.intends, contract.queued) = (false, false);
        });
        Ok(())
    }

    async fn destroy(&self, id: InstanceId) -> Result<(), ProviderError> {
        self.change(id, |market, now, index| {
            market.tenancy.destroy(now, index);
            let contract = &mut market.contracts[index];
            (contract.intends, contract.queued) = (false, false);
        });
        Ok(())
    }

    async fn change_bid(&self, id: InstanceId, usd_per_hour: f64) -> Result<(), ProviderError> {
        self.change(id, |market, now, index| {
            market.tenancy.change_bid(now, index, usd_per_hour);
        });
        Ok(())
    }

    async fn charges(
        &self,
        _since_s: f64,
        instances: &[InstanceId],
    ) -> Result<Vec<Charge>, ProviderError> {
        let market = self.look();
        let now = market.now();
        let charge = |id: &InstanceId| {
            let index = id.checked_sub(FIRST_INSTANCE)? as usize;
            let bill = &market.tenancy.boxes.get(index)?.bill;
            Some(Charge {
                instance: *id,
                gpu_usd: bill.gpu_usd(now),
                disk_usd: bill.storage_usd(now),
                bandwidth_usd: 0.0,
            })
        };
        Ok(instances.iter().filter_map(charge).collect())
    }
}
