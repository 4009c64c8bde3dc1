//! What one account rents in a random market, and its bill, by the second.

use std::borrow::Cow;

use crate::{
    market::{Millis, bill::Bill, machine::storage_usd_per_hour},
    random_market::{
        Dice, RandomMarket,
        params::{RESTART_S, RESUME_S},
    },
};

/// What a tenant sees of his box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Its container comes up; the GPU is not charged.
    Coming,
    /// It runs, and is charged.
    Up,
    /// Somebody else has it, or it was stopped: the disk is charged.
    Away,
    /// Its host cannot be reached; nothing is charged.
    Offline,
}

/// How far a box is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Away,
    /// It was given back, and the contract begins again at this moment.
    Resuming(Millis),
    /// Its container is up at this moment.
    Coming(Millis),
    Up,
}

/// A box, from its order to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Rented {
    /// Index of its machine.
    pub machine: usize,
    /// What is bid, $/h; `None`: on-demand.
    pub bid_usd_per_hour: Option<f64>,
    /// On-demand price when it was rented, $/h.
    pub list_usd_per_hour: f64,
    /// Disk, $/h.
    pub storage_usd_per_hour: f64,
    /// Since when its container is up; `None`: it is not.
    pub up_since_ms: Option<Millis>,
    /// When it was destroyed.
    pub destroyed_ms: Option<Millis>,
    /// What it costs.
    pub bill: Bill,
    wants_to_run: bool,
    phase: Phase,
    /// Until when its life is worked out.
    at_ms: Millis,
}

impl Rented {
    /// GPU price while it runs, $/h.
    pub fn gpu_usd_per_hour(&self) -> f64 {
        self.bid_usd_per_hour.unwrap_or(self.list_usd_per_hour)
    }

    /// It waits for its machine, or runs there.
    pub fn wants_to_run(&self) -> bool {
        self.wants_to_run
    }
}

/// Everything that one account rents.
#[derive(Debug, Clone)]
pub struct Tenancy<'a> {
    market: Cow<'a, RandomMarket>,
    /// All that it ever rented; the index is the number of the box.
    pub boxes: Vec<Rented>,
}

impl<'a> Tenancy<'a> {
    /// Nothing is rented yet.
    pub fn new(market: &'a RandomMarket) -> Self {
        Self {
            market: Cow::Borrowed(market),
            boxes: Vec::new(),
        }
    }

    /// The same in a market of its own.
    pub fn of(market: RandomMarket) -> Tenancy<'static> {
        Tenancy {
            market: Cow::Owned(market),
            boxes: Vec::new(),
        }
    }

    /// Where it rents.
    pub fn market(&self) -> &RandomMarket {
        &self.market
    }

    /// Whether nothing but time keeps a box from running.
    pub fn has_its_machine(&self, id: usize) -> bool {
        let rented = &self.boxes[id];
        let segment = self.market.machines[rented.machine].at(rented.at_ms);
        rented.wants_to_run && segment.holds(rented.bid_usd_per_hour)
    }

    /// Rents a machine for a bid, or on-demand; `None`: it is not for sale at that price.
    pub fn rent(
        &mut self,
        now: Millis,
        machine: usize,
        bid_usd_per_hour: Option<f64>,
        disk_gb: f64,
    ) -> Option<usize> {
        self.advance(now);
        let timeline = &self.market.machines[machine];
        let segment = timeline.at(now);
        let ours = |rented: &Rented| {
            rented.machine == machine && rented.destroyed_ms.is_none() && rented.wants_to_run
        };
        let for_sale = segment.holds(bid_usd_per_hour) && !segment.on_demand;
        if !for_sale || self.boxes.iter().any(ours) {
            return None;
        }
        self.boxes.push(Rented {
            machine,
            bid_usd_per_hour,
            list_usd_per_hour: segment.list_usd_per_hour,
            storage_usd_per_hour: storage_usd_per_hour(timeline.storage_usd_per_gb_month, disk_gb),
            up_since_ms: None,
            destroyed_ms: None,
            bill: Bill::default(),
            wants_to_run: true,
            phase: Phase::Coming(now + timeline.loading_ms),
            at_ms: now,
        });
        let id = self.boxes.len() - 1;
        self.settle(id);
        Some(id)
    }

    /// It is meant to run again, when its bid has the machine.
    pub fn start(&mut self, now: Millis, id: usize) {
        self.wish(now, id, true);
    }

    /// It is meant to be stopped; its disk stays.
    pub fn stop(&mut self, now: Millis, id: usize) {
        self.wish(now, id, false);
    }

    fn wish(&mut self, now: Millis, id: usize, wants_to_run: bool) {
        self.advance(now);
        if self.boxes[id].destroyed_ms.is_none() {
            self.boxes[id].wants_to_run = wants_to_run;
            self.settle(id);
        }
    }

    /// Another bid, which is paid from now on.
    pub fn change_bid(&mut self, now: Millis, id: usize, usd_per_hour: f64) {
        self.advance(now);
        let rented = &mut self.boxes[id];
        if rented.destroyed_ms.is_none() && rented.bid_usd_per_hour.is_some() {
            rented.bid_usd_per_hour = Some(usd_per_hour);
            self.settle(id);
        }
    }

    /// Ends it, and its bill.
    pub fn destroy(&mut self, now: Millis, id: usize) {
        self.advance(now);
        let rented = &mut self.boxes[id];
        if rented.destroyed_ms.is_none() {
            rented.destroyed_ms = Some(now);
            rented.wants_to_run = false;
            rented.phase = Phase::Away;
            rented.up_since_ms = None;
            rented.bill.close(now);
        }
    }

    /// What its tenant sees of a box at the moment to which its life is worked out.
    pub fn presence(&self, id: usize) -> Presence {
        let rented = &self.boxes[id];
        if !self.market.machines[rented.machine].at(rented.at_ms).up {
            return Presence::Offline;
        }
        match rented.phase {
            Phase::Up => Presence::Up,
            Phase::Coming(_) => Presence::Coming,
            Phase::Away | Phase::Resuming(_) => Presence::Away,
        }
    }

    /// Lets everything happen that is due until `now`, each at its own moment.
    pub fn advance(&mut self, now: Millis) {
        for id in 0..self.boxes.len() {
            while let Some(due) = self.next_of(id).filter(|due| *due <= now) {
                self.boxes[id].at_ms = due;
                self.settle(id);
            }
            let rented = &mut self.boxes[id];
            rented.at_ms = rented.at_ms.max(now);
        }
    }

    /// When something may happen next to a box; `None`: nothing does.
    pub fn next_of(&self, id: usize) -> Option<Millis> {
        let rented = &self.boxes[id];
        if rented.destroyed_ms.is_some() {
            return None;
        }
        let phase = match rented.phase {
            Phase::Resuming(due) | Phase::Coming(due) => Some(due),
            Phase::Away | Phase::Up => None,
        };
        let change = self.market.machines[rented.machine].next_change(rented.at_ms);
        phase.into_iter().chain(change).min()
    }

    /// Boxes whose GPU is charged now.
    pub fn gpus_charged(&self) -> usize {
        let charged =
            |rented: &&Rented| rented.destroyed_ms.is_none() && rented.up_since_ms.is_some();
        self.boxes.iter().filter(charged).count()
    }

    /// Boxes that were not destroyed.
    pub fn alive(&self) -> usize {
        let alive = |rented: &&Rented| rented.destroyed_ms.is_none();
        self.boxes.iter().filter(alive).count()
    }

    /// What all of it cost until `now`, dollars.
    pub fn total_usd(&self, now: Millis) -> f64 {
        self.boxes
            .iter()
            .map(|rented| rented.bill.total_usd(now))
            .sum()
    }

    /// Brings a box in line with its machine and its tenant's wish, at the moment to which its life is worked out.
    fn settle(&mut self, id: usize) {
        let rented = &mut self.boxes[id];
        let now = rented.at_ms;
        let segment = self.market.machines[rented.machine].at(now);
        let holds = rented.wants_to_run && segment.holds(rented.bid_usd_per_hour);
        // The same moment of the same machine takes the same time, whoever rents it.
        let mut dice = Dice::new(now.unsigned_abs(), rented.machine as u64);
        let mut seconds = |range: (f64, f64)| (dice.between(range.0, range.1) * 1000.0) as Millis;
        rented.phase = match rented.phase {
            _ if !holds => Phase::Away,
            Phase::Away => Phase::Resuming(now + seconds(RESUME_S)),
            Phase::Resuming(due) if now >= due => Phase::Coming(now + seconds(RESTART_S)),
            Phase::Coming(due) if now >= due => Phase::Up,
            phase => phase,
        };
        let is_up = rented.phase == Phase::Up;
        rented.up_since_ms = is_up.then(|| rented.up_since_ms.unwrap_or(now));
        let gpu = if is_up {
            rented.gpu_usd_per_hour()
        } else {
            0.0
        };
        let (state, storage) = match segment.up {
            true if is_up => ("running", rented.storage_usd_per_hour),
            true => ("exited", rented.storage_usd_per_hour),
            false => ("offline", 0.0),
        };
        rented.bill.meter(now, state, gpu, storage);
    }
}
