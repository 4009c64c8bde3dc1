//! The market as a pure state machine: machines, offers, contracts, rivals and bills. Time is an argument of every call.
//!
//! Each call first lets everything happen that was due earlier, at the moment it was due, so that bills do not depend on how
//! often somebody looks. What must be done to real boxes comes out as [`Effect`]s; what happened to them comes back as reports.
//! Start reading at [`Market::rent`]; [`contracts`] holds who gets the GPUs, [`containers`] what the box does meanwhile.

pub mod bill;
pub mod catalogue;
pub mod containers;
pub mod contracts;
pub mod instance;
pub mod keys;
mod knobs;
pub mod machine;
mod money;
pub mod moving;
pub mod pace;
mod renting;
pub mod term;

use std::collections::BTreeMap;

use crate::market::{
    instance::Instance,
    keys::SshKey,
    machine::{Machine, Occupant},
};

pub use pace::{Delays, Loading};

/// Milliseconds since the Unix epoch.
pub type Millis = i64;

/// Number of an instance, the `new_contract` of the answer to a create.
pub type InstanceId = u64;

/// An account: who pays.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its number, `id` of the user.
    pub id: u64,
    /// API keys that act for it.
    pub api_keys: Vec<String>,
    /// Dollars it started with.
    pub deposit_usd: f64,
    /// Public keys that new instances get.
    pub ssh_keys: Vec<SshKey>,
}

/// What the host must do to a box.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Make its disk.
    Create(InstanceId),
    /// Start its container, for the `epoch`-th time.
    Start(InstanceId, u64),
    /// Stop its container, with the grace.
    Stop(InstanceId),
    /// Make its disk anew, from a fresh image, once its container has stopped.
    Remake(InstanceId),
    /// Power is gone.
    LosePower(InstanceId),
    /// The set of keys changed.
    SetKeys(InstanceId),
    /// End it, disk and all.
    Destroy(InstanceId),
}

/// Why the market would not do it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refused {
    /// The offer was rented, withdrawn, or never was.
    #[error("no_such_ask Instance type by id {0} is not available.")]
    NoSuchAsk(u64),
    /// The instance was destroyed, is somebody else's, or never was.
    #[error("no_such_instance Instance {0} does not exist.")]
    NoSuchInstance(InstanceId),
    /// The account has no credit left.
    #[error("Your account lacks credit; see the billing page.")]
    InsufficientCredit,
    /// A bid out of bounds.
    #[error("{0}")]
    Price(String),
    /// An argument that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The control interface asked for something that cannot happen.
    #[error("{0}")]
    Impossible(String),
}

/// How an accepted order went.
#[derive(Debug, Clone, PartialEq)]
pub struct Rented {
    /// The instance.
    pub id: InstanceId,
    /// Key that may only show, start, stop and destroy it.
    pub api_key: String,
    /// False: the bid is below the floor, so a stopped instance was made that bills its disk.
    pub competitive: bool,
}

/// Answer to a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// It has its GPUs.
    Running,
    /// Somebody else has them; it waits.
    Queued,
}

/// The whole market. See the module's description.
#[derive(Debug)]
pub struct Market {
    pub(crate) machines: Vec<Machine>,
    pub(crate) instances: BTreeMap<InstanceId, Instance>,
    pub(crate) accounts: Vec<Account>,
    pub(crate) delays: Delays,
    pub(crate) loading: Loading,
    pub(crate) pull_failure: Option<String>,
    pub(crate) moving: Option<moving::Moving>,
    destroy_delay_ms: Millis,
    effects: Vec<Effect>,
    next_offer: u64,
    next_instance: InstanceId,
    next_rival: u64,
    next_key: u64,
    seed: u64,
}

impl Market {
    /// A market of these machines and accounts at time `now`.
    pub fn new(
        seed: u64,
        delays: Delays,
        machines: Vec<Machine>,
        accounts: Vec<Account>,
        now: Millis,
    ) -> Self {
        let mut market = Self {
            machines,
            instances: BTreeMap::new(),
            accounts,
            delays,
            loading: Loading::Normal,
            pull_failure: None,
            moving: None,
            destroy_delay_ms: 0,
            effects: Vec::new(),
            next_offer: 36_230_001,
            next_instance: 7_835_610,
            next_rival: 1,
            next_key: 1,
            seed,
        };
        for machine in 0..market.machines.len() {
            market.relist(machine);
        }
        market.advance(now);
        market
    }

    /// Lets everything happen that is due until `now`, each at its own moment.
    pub fn advance(&mut self, now: Millis) {
        while let Some((due, what)) = self.first_due().filter(|(due, _)| *due <= now) {
            match what {
                Due::Step(id) => self.step(id, due),
                Due::RivalLeaves(machine, rival) => {
                    self.rival_leaves(machine, rival);
                    self.settle(due);
                }
                Due::Turn(machine) => self.turn(machine, due),
                Due::TermEnds(machine) => self.term_ends(machine, due),
                Due::Deleted(id) => self.unload(id, due),
            }
        }
        for account in 0..self.accounts.len() {
            if self.credit_usd(account, now) <= 0.0 {
                self.stop_all(account, now);
            }
        }
    }

    /// When something happens next by itself.
    pub fn next_due(&self) -> Option<Millis> {
        self.first_due().map(|(due, _)| due)
    }

    /// What must be done to boxes since the last call, in order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// All machines.
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// Disk of a machine that can still be rented, GB.
    pub fn free_disk_gb(&self, machine: usize) -> f64 {
        let rented: f64 = self
            .instances
            .values()
            .filter(|instance| instance.machine == machine && instance.destroyed_ms.is_none())
            .map(|instance| instance.order.disk_gb)
            .sum();
        (self.machines[machine].spec.disk_gb - rented).max(0.0)
    }

    /// Machine of an instance.
    pub fn machine_of(&self, instance: &Instance) -> &Machine {
        &self.machines[instance.machine]
    }

    /// All accounts.
    pub fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// Every instance that ever was, by number.
    pub fn instances(&self) -> &BTreeMap<InstanceId, Instance> {
        &self.instances
    }

    /// An instance that was not destroyed.
    ///
    /// # Errors
    /// When it was, or never was.
    pub fn living(&self, id: InstanceId) -> Result<&Instance, Refused> {
        self.instances
            .get(&id)
            .filter(|instance| instance.destroyed_ms.is_none())
            .ok_or(Refused::NoSuchInstance(id))
    }

    /// 64 hex digits that only this seed gives for this purpose.
    pub(crate) fn secret(&self, purpose: &str, number: u64) -> String {
        catalogue::secret(self.seed, purpose, number)
    }

    pub(crate) fn at(&mut self, id: InstanceId) -> &mut Instance {
        self.instances
            .get_mut(&id)
            .expect("callers took the number from this map, which never shrinks")
    }

    pub(crate) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(crate) fn next_key_id(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key - 1
    }

    pub(crate) fn next_rival_id(&mut self) -> u64 {
        self.next_rival += 1;
        self.next_rival - 1
    }

    /// Number of the machine that an offer is of.
    pub fn machine_of_offer(&self, offer: u64) -> Option<u64> {
        let (index, _) = self.listing(offer)?;
        Some(self.machines[index].spec.id)
    }

    fn listing(&self, offer: u64) -> Option<(usize, Vec<usize>)> {
        self.machines
            .iter()
            .enumerate()
            .find_map(|(index, machine)| {
                let listing = machine
                    .listings
                    .iter()
                    .find(|listing| listing.id == offer)?;
                Some((index, listing.gpus.clone()))
            })
    }

    fn first_due(&self) -> Option<(Millis, Due)> {
        let steps = self
            .instances
            .values()
            .filter_map(|instance| Some((instance.next?.0, Due::Step(instance.id))));
        let rivals = self
            .machines
            .iter()
            .enumerate()
            .flat_map(|(index, machine)| {
                machine.rivals.iter().filter_map(move |rival| {
                    Some((rival.until_ms?, Due::RivalLeaves(index, rival.id)))
                })
            });
        let terms = self
            .machines
            .iter()
            .enumerate()
            .filter(|(_, machine)| !machine.ended)
            .map(|(index, machine)| (machine.spec.end_ms, Due::TermEnds(index)));
        let deletions = self
            .instances
            .values()
            .filter(|instance| instance.destroyed_ms.is_none())
            .filter_map(|instance| Some((instance.delete_ms?, Due::Deleted(instance.id))));
        let turns = self.moving.iter().flat_map(|moving| {
            (0..self.machines.len())
                .filter_map(move |machine| Some((moving.next_turn(machine)?, Due::Turn(machine))))
        });
        steps
            .chain(rivals)
            .chain(turns)
            .chain(terms)
            .chain(deletions)
            .min_by_key(|(due, _)| *due)
    }

    /// Who holds the GPUs of an instance, other than itself.
    pub(crate) fn others_on(&self, id: InstanceId) -> Vec<Occupant> {
        let instance = &self.instances[&id];
        let slots = &self.machines[instance.machine].slots;
        let mut others: Vec<Occupant> = instance
            .gpus
            .iter()
            .map(|gpu| slots[*gpu])
            .filter(|occupant| {
                !matches!(occupant, Occupant::Nobody) && *occupant != Occupant::Instance(id)
            })
            .collect();
        others.dedup();
        others
    }
}

enum Due {
    Step(InstanceId),
    RivalLeaves(usize, u64),
    Turn(usize),
    TermEnds(usize),
    Deleted(InstanceId),
}

#[cfg(test)]
mod tests;
