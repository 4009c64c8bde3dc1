//! Who gets the GPUs: starts and stops by the tenant, bids, rivals, and waiting for a place.

use crate::market::{
    Effect, InstanceId, Market, Millis, Refused, Started,
    instance::{Container, Contract, Instance, Intended, Status, Step},
    machine::{Occupant, Rival},
};

/// Lowest bid, and the highest per GPU, when a bid is changed.
const MIN_BID_USD_PER_HOUR: f64 = 0.001;
const MAX_BID_USD_PER_GPU_HOUR: f64 = 32.0;
/// A bid "at a winning price" was seen to be about this many times the floor.
const WINNING_OVER_FLOOR: f64 = 1.18;
/// What a rival of the control interface bids over the instance it drives away.
const RIVAL_OVER_BID: f64 = 1.25;

/// A rival that the control interface sends.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Intruder {
    /// It rents on-demand, which no bid beats.
    pub on_demand: bool,
    /// Its bid, $/h; by default a quarter more than the instance's.
    pub bid_usd_per_hour: Option<f64>,
    /// How long it stays; by default until it is told to leave.
    pub stays_ms: Option<Millis>,
}

impl Market {
    /// The tenant wants it to run.
    ///
    /// # Errors
    /// When it does not exist any more, its contract has ended, or the account has no credit.
    pub fn start(&mut self, now: Millis, id: InstanceId) -> Result<Started, Refused> {
        self.advance(now);
        let (account, machine) = {
            let instance = self.living(id)?;
            (instance.account, instance.machine)
        };
        if self.machines[machine].ended {
            let text = format!("The contract of instance {id} has ended.");
            return Err(Refused::Invalid(text));
        }
        if self.credit_usd(account, now) <= 0.0 {
            return Err(Refused::InsufficientCredit);
        }
        let instance = self.at(id);
        instance.wants_to_run = true;
        instance.intended = Intended::Running;
        if instance.contract == Contract::Running {
            // A container that ended by itself is started again.
            if std::mem::take(&mut instance.ended) && instance.container == Container::Down {
                self.bring_up(id, now);
            }
            return Ok(Started::Running);
        }
        if self.try_take(id, now) {
            self.bring_up(id, now);
            self.settle(now);
            return Ok(Started::Running);
        }
        Ok(Started::Queued)
    }

    /// The tenant wants it to stop; the disk stays, and its bill.
    ///
    /// # Errors
    /// When it does not exist any more.
    pub fn stop(&mut self, now: Millis, id: InstanceId) -> Result<(), Refused> {
        self.advance(now);
        self.living(id)?;
        self.at(id).wants_to_run = false;
        self.end_contract(id, now);
        self.settle(now);
        Ok(())
    }

    /// Changes the bid; `None` takes a price that wins against the floor. Answers the new bid.
    ///
    /// # Errors
    /// When it does not exist any more, is not interruptible, or the bid is out of bounds.
    pub fn change_bid(
        &mut self,
        now: Millis,
        id: InstanceId,
        bid: Option<f64>,
    ) -> Result<f64, Refused> {
        self.advance(now);
        let instance = self.living(id)?;
        if instance.order.bid_usd_per_hour.is_none() {
            return Err(Refused::Invalid(format!(
                "Instance {id} is not interruptible."
            )));
        }
        let most = MAX_BID_USD_PER_GPU_HOUR * instance.gpus.len() as f64;
        let bid = bid.unwrap_or(self.floor_usd_per_hour(instance) * WINNING_OVER_FLOOR);
        if bid.is_nan() || bid < MIN_BID_USD_PER_HOUR {
            return Err(Refused::Price(format!(
                "Please set a bid price >= {MIN_BID_USD_PER_HOUR}."
            )));
        }
        if bid > most {
            return Err(Refused::Price(format!("Please set a bid price <= {most}.")));
        }
        self.at(id).order.bid_usd_per_hour = Some(bid);
        self.meter(id, now);
        let floor = self.floor_usd_per_hour(&self.instances[&id]);
        if self.instances[&id].contract == Contract::Running && bid < floor {
            self.end_contract(id, now);
        }
        self.settle(now);
        Ok(bid)
    }

    /// An instance that does not run waits for its tenant to start it, however high its bid is.
    pub fn stay_stopped(&mut self, id: InstanceId) {
        let instance = self.at(id);
        if instance.contract == Contract::Stopped {
            instance.wants_to_run = false;
            instance.next = instance
                .next
                .filter(|(_, step)| !matches!(step, Step::Resume));
        }
    }

    /// Somebody takes exactly the GPUs of this instance, for more than it pays.
    ///
    /// # Errors
    /// When it does not exist any more, holds its GPUs on-demand, or the rival's bid is no higher.
    pub fn outbid(
        &mut self,
        now: Millis,
        id: InstanceId,
        intruder: Intruder,
    ) -> Result<Rival, Refused> {
        self.advance(now);
        let instance = self.living(id)?;
        let own = instance.order.bid_usd_per_hour;
        let bid = intruder
            .bid_usd_per_hour
            .or(own.map(|own| own * RIVAL_OVER_BID));
        let bid = bid.filter(|_| !intruder.on_demand);
        let rank = bid.unwrap_or(f64::INFINITY);
        let holds = instance.contract == Contract::Running;
        if (holds && instance.rank() >= rank) || !self.all_rank_below(rank, id) {
            let text = format!("a rival has to rank above whoever holds the GPUs of instance {id}");
            return Err(Refused::Impossible(text));
        }
        let (machine, gpus) = (instance.machine, instance.gpus.clone());
        let rival = Rival {
            id: self.next_rival_id(),
            bid_usd_per_hour: bid,
            until_ms: intruder.stays_ms.map(|stays| now + stays),
        };
        self.evict(id, now);
        if holds {
            self.end_contract(id, now);
        }
        for gpu in gpus {
            self.machines[machine].slots[gpu] = Occupant::Rival(rival.id);
        }
        self.machines[machine].rivals.push(rival.clone());
        self.settle(now);
        Ok(rival)
    }

    /// Every rival on the GPUs of this instance leaves. Answers how many did.
    ///
    /// # Errors
    /// When it does not exist any more.
    pub fn tenant_leaves(&mut self, now: Millis, id: InstanceId) -> Result<usize, Refused> {
        self.advance(now);
        let machine = self.living(id)?.machine;
        let rivals: Vec<u64> = self
            .others_on(id)
            .into_iter()
            .filter_map(|other| match other {
                Occupant::Rival(rival) => Some(rival),
                _ => None,
            })
            .collect();
        for rival in &rivals {
            self.rival_leaves(machine, *rival);
        }
        self.settle(now);
        Ok(rivals.len())
    }

    /// Lowest bid that this instance could run at now, $/h, rivals left aside.
    pub fn floor_usd_per_hour(&self, instance: &Instance) -> f64 {
        self.machines[instance.machine].spec.min_bid_usd_per_hour * instance.gpus.len() as f64
    }

    /// Takes the GPUs if nobody of the same or a higher rank holds them.
    pub(crate) fn try_take(&mut self, id: InstanceId, now: Millis) -> bool {
        if !self.could_take(id) {
            return false;
        }
        self.evict(id, now);
        let (machine, gpus) = (
            self.instances[&id].machine,
            self.instances[&id].gpus.clone(),
        );
        for gpu in gpus {
            self.machines[machine].slots[gpu] = Occupant::Instance(id);
        }
        let instance = self.at(id);
        instance.contract = Contract::Running;
        instance.intended = Intended::Running;
        true
    }

    fn could_take(&self, id: InstanceId) -> bool {
        let instance = &self.instances[&id];
        let rank = instance.rank();
        rank >= self.floor_usd_per_hour(instance) && self.all_rank_below(rank, id)
    }

    /// Everybody else on the GPUs of this instance would have to give way to this rank.
    fn all_rank_below(&self, rank: f64, id: InstanceId) -> bool {
        let machine = &self.machines[self.instances[&id].machine];
        self.others_on(id).into_iter().all(|other| match other {
            Occupant::Nobody => true,
            Occupant::Instance(other) => self.instances[&other].rank() < rank,
            Occupant::Rival(other) => machine
                .rivals
                .iter()
                .find(|rival| rival.id == other)
                .and_then(|rival| rival.bid_usd_per_hour)
                .is_some_and(|bid| bid < rank),
        })
    }

    /// Drives everybody else off the GPUs of an instance.
    fn evict(&mut self, id: InstanceId, now: Millis) {
        let machine = self.instances[&id].machine;
        for other in self.others_on(id) {
            match other {
                Occupant::Nobody => {}
                Occupant::Instance(other) => self.end_contract(other, now),
                // There it waits for the GPU to be had again.
                Occupant::Rival(rival) if self.moving.is_some() => {
                    self.free(machine, Occupant::Rival(rival));
                }
                Occupant::Rival(rival) => self.rival_leaves(machine, rival),
            }
        }
    }

    /// The instance loses its GPUs, or its place in the queue: by its tenant, a rival or an empty account.
    pub(crate) fn end_contract(&mut self, id: InstanceId, now: Millis) {
        let instance = self.at(id);
        instance.intended = Intended::Stopped;
        if instance.contract == Contract::Unloaded {
            return;
        }
        instance.contract = Contract::Stopped;
        instance.metered = false;
        instance.ended = false;
        instance.restart = None;
        // A lost host goes on being lost; everything else that was planned is off.
        instance.next = instance
            .next
            .filter(|(_, step)| matches!(step, Step::Unknown | Step::Offline));
        match instance.container {
            Container::Starting | Container::Up => {
                instance.container = Container::Stopping;
                self.push(Effect::Stop(id));
            }
            Container::Stopping => {}
            Container::Down => {
                let started = instance.container_started_ms.is_some();
                if !matches!(instance.status, Some(Status::Unknown | Status::Offline)) {
                    instance.status = Some(if started {
                        Status::Exited
                    } else {
                        Status::Created
                    });
                }
            }
        }
        self.meter(id, now);
        self.release(id);
    }

    /// Gives the GPUs back.
    pub(crate) fn release(&mut self, id: InstanceId) {
        let machine = self.instances[&id].machine;
        self.free(machine, Occupant::Instance(id));
    }

    /// A tenant that is not ours goes.
    pub(crate) fn rival_leaves(&mut self, machine: usize, rival: u64) {
        self.machines[machine]
            .rivals
            .retain(|known| known.id != rival);
        self.free(machine, Occupant::Rival(rival));
    }

    fn free(&mut self, machine: usize, occupant: Occupant) {
        for slot in &mut self.machines[machine].slots {
            if *slot == occupant {
                *slot = Occupant::Nobody;
            }
        }
    }

    /// After GPUs changed hands: offers are listed anew, and whoever waits is told.
    pub(crate) fn settle(&mut self, now: Millis) {
        self.contest(now);
        for machine in 0..self.machines.len() {
            self.relist(machine);
        }
        self.wake_waiting(now);
    }

    /// Whoever waits and could run now tries after the market's delay.
    fn wake_waiting(&mut self, now: Millis) {
        let able: Vec<InstanceId> = self
            .instances
            .values()
            .filter(|instance| instance.waits() && instance.next.is_none())
            .map(|instance| instance.id)
            .filter(|id| self.could_take(*id))
            .collect();
        for id in able {
            self.at(id).next = Some((now + self.delays.resume_ms, Step::Resume));
        }
    }

    /// The moment after [`Market::wake_waiting`].
    pub(crate) fn resume(&mut self, id: InstanceId, now: Millis) {
        if self.instances[&id].waits() && self.try_take(id, now) {
            self.bring_up(id, now);
        }
        self.settle(now);
    }
}
