//! A market that moves: what others do on each machine comes from the random market of a seed, each thing at its own moment.
//!
//! Every machine has one GPU, and one tenant beside ours that counts: whoever rents on-demand, or bids most. A machine whose holder can be
//! outbid stays on the list, at the price to beat, also while the holder is one of our instances.

use crate::{
    market::{
        Account, Delays, InstanceId, Market, Millis, catalogue,
        machine::{Machine, MachineSpec, Occupant, Rival},
    },
    random_market::{
        RandomMarket,
        params::TICK_USD_PER_HOUR,
        timeline::{Segment, Timeline},
    },
};

/// Days for which it is known what happens; afterwards nothing changes any more.
const DAYS: u32 = 60;
/// The product of all machines.
const PRODUCT: &str = "RTX 4090";

/// What others will do.
#[derive(Debug)]
pub(crate) struct Moving {
    timelines: Vec<Timeline>,
    /// When it began, and how much faster than the market's clock the others live.
    began_ms: Millis,
    speed: f64,
    /// Up to which moment of its own time each machine has come.
    done_ms: Vec<Millis>,
    /// The tenant of each machine that this put there.
    tenants: Vec<Option<u64>>,
}

impl Moving {
    /// When something changes next on a machine, by the market's clock.
    pub(crate) fn next_turn(&self, machine: usize) -> Option<Millis> {
        let change_ms = self.timelines[machine].next_change(self.done_ms[machine])?;
        Some(self.began_ms + (change_ms as f64 / self.speed).ceil() as Millis)
    }
}

impl Market {
    /// The random market of a seed, whose others live `speed` times as fast as its clock.
    pub fn moving(
        seed: u64,
        speed: f64,
        delays: Delays,
        accounts: Vec<Account>,
        now: Millis,
    ) -> Self {
        let random = RandomMarket::new(seed, DAYS);
        let machines = random.machines.iter().enumerate();
        let machines: Vec<Machine> = machines
            .map(|(index, timeline)| Machine::new(spec(index, timeline, seed, now)))
            .collect();
        let count = machines.len();
        let mut market = Self::new(seed, delays, machines, accounts, now);
        market.moving = Some(Moving {
            timelines: random.machines,
            began_ms: now,
            speed,
            done_ms: vec![0; count],
            tenants: vec![None; count],
        });
        for machine in 0..count {
            market.become_so(machine, 0, now);
        }
        market.settle(now);
        market
    }

    /// The next thing happens on a machine.
    pub(crate) fn turn(&mut self, machine: usize, now: Millis) {
        let moving = self.moving.as_ref();
        let change = moving
            .and_then(|moving| moving.timelines[machine].next_change(moving.done_ms[machine]));
        if let Some(change_ms) = change {
            self.become_so(machine, change_ms, now);
            self.settle(now);
        }
    }

    fn become_so(&mut self, machine: usize, at_ms: Millis, now: Millis) {
        let Some(moving) = &mut self.moving else {
            return;
        };
        moving.done_ms[machine] = at_ms;
        let segment: Segment = *moving.timelines[machine].at(at_ms);
        let before = moving.tenants[machine].take();
        let tenant = match (segment.on_demand, segment.top_bid_usd_per_hour) {
            (true, _) => Some(None),
            (false, bid) if bid > 0.0 => Some(Some(bid)),
            _ => None,
        };
        let tenant = tenant.map(|bid_usd_per_hour| Rival {
            id: self.next_rival_id(),
            bid_usd_per_hour,
            until_ms: None,
        });
        if let Some(moving) = &mut self.moving {
            moving.tenants[machine] = tenant.as_ref().map(|tenant| tenant.id);
        }
        let found = &mut self.machines[machine];
        found.rivals.retain(|rival| Some(rival.id) != before);
        found.rivals.extend(tenant);
        found.spec.gpu_usd_per_hour = segment.list_usd_per_hour;
        found.spec.min_bid_usd_per_hour = segment.floor_usd_per_hour;
        match (segment.up, found.offline) {
            (false, false) => drop(self.lose(machine, now)),
            (true, true) => drop(self.bring_back(machine, now)),
            _ => {}
        }
    }

    /// Every machine goes to whoever ranks first on it, and says what it takes to have it.
    pub(crate) fn contest(&mut self, now: Millis) {
        if self.moving.is_none() {
            return;
        }
        for machine in 0..self.machines.len() {
            let rank = |rival: &Rival| rival.bid_usd_per_hour.unwrap_or(f64::INFINITY);
            let found = &self.machines[machine];
            let first = found
                .rivals
                .iter()
                .max_by(|one, other| rank(one).total_cmp(&rank(other)));
            let first = first.map(|rival| (rival.id, rank(rival)));
            let ours = match found.slots[0] {
                Occupant::Instance(id) if !self.loses(id, first.map(|(_, rank)| rank)) => {
                    Some(self.instances[&id].rank())
                }
                Occupant::Instance(id) => {
                    self.end_contract(id, now);
                    None
                }
                Occupant::Nobody | Occupant::Rival(_) => None,
            };
            let found = &mut self.machines[machine];
            if ours.is_none() {
                found.slots[0] =
                    first.map_or(Occupant::Nobody, |(rival, _)| Occupant::Rival(rival));
            }
            let highest = ours.or(first.map(|(_, rank)| rank));
            let floor = found.spec.min_bid_usd_per_hour;
            found.beatable_usd_per_hour = match highest {
                None => Some(floor),
                Some(rank) if rank.is_finite() => Some((rank + TICK_USD_PER_HOUR).max(floor)),
                Some(_) => None,
            };
        }
    }

    /// Whether an instance that has its GPU loses it to the first of the others, or to its host's new price. On-demand it loses it to nobody.
    fn loses(&self, id: InstanceId, others: Option<f64>) -> bool {
        let instance = &self.instances[&id];
        let rank = instance.rank();
        let outranked = others.is_some_and(|others| others >= rank);
        rank.is_finite() && (outranked || rank < self.floor_usd_per_hour(instance))
    }
}

/// A machine with one GPU, as the usual ones with several are by their share.
fn spec(index: usize, timeline: &Timeline, seed: u64, now: Millis) -> MachineSpec {
    let usual: Vec<MachineSpec> = catalogue::machines(seed, now)
        .into_iter()
        .map(|machine| machine.spec)
        .filter(|spec| spec.gpu.name == PRODUCT && spec.verification == "verified")
        .collect();
    let model = usual[index % usual.len()].clone();
    let gpus = model.num_gpus;
    let number = index as u64;
    MachineSpec {
        id: 41_860 + number,
        host_id: 120_390 + number,
        bundle_id: 1_240_077_100 + number,
        num_gpus: 1,
        first_gpu_id: 301_100 + number * 16,
        cpu_cores: (model.cpu_cores / gpus as u32).max(1),
        cpu_ram_mb: model.cpu_ram_mb / gpus as u64,
        public_ipaddr: format!("203.0.113.{}", 10 + index),
        storage_usd_per_gb_month: timeline.storage_usd_per_gb_month,
        ..model
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        market::{
            Effect,
            instance::{Contract, Order},
        },
        random_market::HOUR_MS,
    };

    const T0: Millis = 1_795_000_000_000;
    /// A market gives a box back within this of its GPU being free.
    const RESUMED_MS: Millis = 60_000;

    fn market(seed: u64) -> Market {
        let account = Account {
            id: 1,
            api_keys: Vec::new(),
            deposit_usd: 1e6,
            ssh_keys: Vec::new(),
        };
        Market::moving(seed, 1.0, Delays::scaled(1.0), vec![account], T0)
    }

    /// Boxes do at once what their host is told.
    fn boxes(market: &mut Market, now: Millis) {
        loop {
            let effects = market.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Start(id, epoch) => {
                        market.box_started(now, id, epoch, "127.0.0.1:22".parse().unwrap());
                    }
                    Effect::Stop(id) => market.box_stopped(now, id),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn what_is_listed_is_what_the_random_market_offers_at_every_moment() {
        for seed in [1, 7, 99] {
            let random = RandomMarket::new(seed, DAYS);
            let mut market = market(seed);
            for hour in 0..24 * 10 {
                let at_ms = hour * HOUR_MS;
                market.advance(T0 + at_ms);
                let mut expected: Vec<(usize, f64, f64)> = random
                    .offers(at_ms)
                    .iter()
                    .map(|offered| {
                        (
                            offered.machine,
                            offered.min_bid_usd_per_hour,
                            offered.list_usd_per_hour,
                        )
                    })
                    .collect();
                expected.sort_by_key(|(machine, ..)| *machine);
                let machines = market.machines().iter().enumerate();
                let listed: Vec<(usize, f64, f64)> = machines
                    .filter(|(_, machine)| !machine.listings.is_empty())
                    .map(|(index, machine)| {
                        let list = machine.spec.gpu_usd_per_hour;
                        (index, machine.price_to_beat(1), list)
                    })
                    .collect();
                assert_eq!(listed, expected, "seed {seed}, hour {hour}");
            }
        }
    }

    #[test]
    fn a_box_by_bid_is_held_while_its_bid_is_the_highest_and_its_machine_stays_listed_above_it() {
        let (mut taken_back, mut given_back) = (0, 0);
        for seed in 0..20 {
            let random = RandomMarket::new(seed, DAYS);
            let mut market = market(seed);
            let Some(cheapest) = random.offers(0).first().copied() else {
                continue;
            };
            let bid = cheapest.min_bid_usd_per_hour;
            let offer = market.machines()[cheapest.machine].listings[0].id;
            let order = Order {
                image: "i:1".to_owned(),
                disk_gb: 20.0,
                bid_usd_per_hour: Some(bid),
                ..Order::default()
            };
            let id = market.rent(T0, 0, offer, order).unwrap().id;
            let timeline = &random.machines[cheapest.machine];
            let mut held = true;
            for minute in 1..60 * 24 * 10 {
                let at_ms = minute * 60_000;
                market.advance(T0 + at_ms);
                boxes(&mut market, T0 + at_ms);
                let segment = timeline.at(at_ms);
                if !segment.up || at_ms - segment.from_ms <= RESUMED_MS {
                    continue;
                }
                let holds = market.instances()[&id].contract == Contract::Running;
                assert_eq!(
                    holds,
                    segment.holds(Some(bid)),
                    "seed {seed}, minute {minute}"
                );
                taken_back += u32::from(held && !holds);
                given_back += u32::from(!held && holds);
                held = holds;
                let machine = &market.machines()[cheapest.machine];
                let dearer = machine.price_to_beat(1) > bid;
                let listed = !machine.listings.is_empty();
                assert!(!holds || (listed && dearer), "seed {seed}, minute {minute}");
                assert!(machine.listings.iter().all(|listing| listing.id != offer));
            }
        }
        assert!(
            taken_back >= 10 && given_back >= 5,
            "{taken_back}, {given_back}"
        );
    }
}
