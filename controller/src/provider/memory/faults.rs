//! What a story does to the market in memory: prices, interruptions, lost answers, boxes that are not what was asked for.

use std::time::Duration;

use tokio::time::Instant;

use super::{MemoryMarket, offer};
use crate::provider::{Actual, Instance, InstanceId, Intended, Offer, OfferId};

impl MemoryMarket {
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

    /// Lists an offer.
    pub fn list(&self, offer: Offer) {
        self.state().offers.push(offer);
    }

    /// What lies in the checkpoint directory of a box, KiB.
    pub fn fill_disk(&self, id: InstanceId, kib: u64) {
        self.state().disks.fill(id, kib);
    }

    /// From now on copies between boxes bring this much, KiB/s; 0: they are accepted, and nothing comes.
    pub fn copy_at(&self, kib_per_s: u64) {
        self.state().disks.kib_per_s = kib_per_s;
    }

    /// Copies that were asked for, from and to whom, and how many of them were ended.
    pub fn copies(&self) -> (Vec<(InstanceId, InstanceId)>, u32) {
        let state = self.state();
        (state.disks.asked.clone(), state.disks.cancelled)
    }
}
