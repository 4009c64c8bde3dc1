//! Our ledger against the market's bill, over random lives of boxes: rented, outbid, stopped, started, rebooted, lost with their
//! host, found again, bid for anew, destroyed. The market's own clock is simulated; the controller looks every ten seconds.
#![allow(clippy::unwrap_used, reason = "a test may hope")]

use serde_json::Value;
use spotter::{
    ledger::{self, Charged, Cost, CostKind, Interval},
    provider::{Instance, vast},
};
use spotter_sim::{
    market::{
        Account, Delays, Effect, InstanceId, Market, Millis, catalogue,
        contracts::Intruder,
        instance::{Order, Restart},
    },
    vast::{account, rows},
};

const T0: Millis = 1_795_000_000_000;
/// Between two looks of the controller.
const LOOK_MS: Millis = 10_000;
const LIVES: u64 = 1000;

/// Numbers from a seed; the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }
}

/// One box, its market and our ledger of it.
struct Life {
    market: Market,
    id: InstanceId,
    now: Millis,
    intervals: Vec<Interval>,
    /// Changes that were only seen at the next look, and the dearest price of them.
    seen_late: u32,
    dearest_usd_per_hour: f64,
}

impl Life {
    fn begin(dice: &mut Dice) -> Self {
        let account = Account {
            id: 1,
            api_keys: Vec::new(),
            deposit_usd: 1e6,
            ssh_keys: Vec::new(),
        };
        let machines = catalogue::machines(dice.roll(1000), T0);
        let mut market = Market::new(1, Delays::scaled(1.0), machines, vec![account], T0);
        let offers: Vec<(u64, f64)> = market
            .machines()
            .iter()
            .flat_map(|machine| {
                let floor = machine.spec.min_bid_usd_per_hour;
                machine
                    .listings
                    .iter()
                    .map(move |listing| (listing.id, floor * listing.gpus.len() as f64))
            })
            .collect();
        let (offer, floor) = offers[dice.roll(offers.len() as u64) as usize];
        let bid = dice
            .chance(70)
            .then(|| floor * (1.0 + dice.roll(50) as f64 / 100.0));
        let order = Order {
            image: "i:1".to_owned(),
            disk_gb: 20.0 + dice.roll(200) as f64,
            bid_usd_per_hour: bid,
            ..Order::default()
        };
        let id = market.rent(T0, 0, offer, order).unwrap().id;
        let mut life = Self {
            market,
            id,
            now: T0,
            intervals: Vec::new(),
            seen_late: 0,
            dearest_usd_per_hour: 0.0,
        };
        // As the answer to the order comes: the disk is paid for.
        life.look();
        life
    }

    /// What the provider says now, read by the client that talks to the real one.
    fn seen(&self) -> Instance {
        let instance = &self.market.instances()[&self.id];
        let row = rows::instance(&self.market, instance, self.now);
        vast::read_instance(&Value::Object(row), self.now as f64 / 1000.0).unwrap()
    }

    fn look(&mut self) {
        let now_us = self.now * 1000;
        for change in ledger::changes(&self.intervals, 1, &self.seen(), now_us) {
            let open = self
                .intervals
                .iter_mut()
                .find(|known| known.kind == change.kind && known.to_us.is_none());
            if let Some(open) = open {
                open.to_us = Some(change.from_us.max(open.from_us));
            }
            if change.usd_per_hour > 0.0 {
                self.intervals.push(Interval {
                    attempt: 1,
                    kind: change.kind,
                    from_us: change.from_us,
                    to_us: None,
                    usd_per_hour: change.usd_per_hour,
                });
            }
        }
    }

    /// Lets time pass until `until`, with a look after everything that happened.
    fn pass(&mut self, until: Millis) {
        loop {
            self.boxes();
            let due = self.market.next_due().filter(|due| *due <= until);
            let next = due.unwrap_or(until).max(self.now);
            self.market.advance(next);
            self.now = next;
            self.boxes();
            let look = ((self.now - T0) / LOOK_MS + 1) * LOOK_MS + T0;
            if due.is_some() && look <= until {
                let before = self.rates();
                // What else happens until the look is seen with it.
                while let Some(due) = self.market.next_due().filter(|due| *due < look) {
                    self.now = due;
                    self.market.advance(due);
                    self.boxes();
                }
                self.now = look;
                self.market.advance(look);
                self.note_late(before);
                self.look();
            }
            if self.now >= until {
                // Whatever is done next to the box, it is looked at first.
                self.look();
                return;
            }
        }
    }

    fn rates(&self) -> f64 {
        ledger::rates(&self.seen()).total()
    }

    fn note_late(&mut self, before: f64) {
        self.seen_late += 1;
        self.dearest_usd_per_hour = self.dearest_usd_per_hour.max(before).max(self.rates());
    }

    /// Boxes do at once what their host is told.
    fn boxes(&mut self) {
        loop {
            let effects = self.market.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Start(id, epoch) => {
                        let address = "127.0.0.1:2222".parse().unwrap();
                        self.market.box_started(self.now, id, epoch, address);
                    }
                    Effect::Stop(id) => self.market.box_stopped(self.now, id),
                    _ => {}
                }
            }
        }
    }

    /// Something happens to the box: by us, which we know at once, or by the market, which we see later.
    fn happen(&mut self, dice: &mut Dice) {
        let (now, id) = (self.now, self.id);
        let before = self.rates();
        let ours = match dice.roll(9) {
            0 => self.market.stop(now, id).is_ok(),
            1 | 2 => self.market.start(now, id).is_ok(),
            3 => {
                let bid = self.market.instances()[&id].order.bid_usd_per_hour;
                let bid = bid.map(|bid| bid * (0.9 + dice.roll(60) as f64 / 100.0));
                bid.is_some() && self.market.change_bid(now, id, bid).is_ok()
            }
            4 | 5 => {
                let stays_ms = dice.chance(60).then(|| (dice.roll(7200) * 1000) as Millis);
                let intruder = Intruder {
                    on_demand: dice.chance(30),
                    bid_usd_per_hour: None,
                    stays_ms,
                };
                let _ = self.market.outbid(now, id, intruder);
                false
            }
            6 => {
                let _ = self.market.tenant_leaves(now, id);
                false
            }
            7 => {
                let lost = self.market.lose_host(now, id).is_ok();
                if !lost {
                    let _ = self.market.host_back(now, id);
                }
                false
            }
            _ => {
                let _ = self.market.restart(now, id, Restart::Reboot);
                false
            }
        };
        self.boxes();
        if ours {
            self.look();
        } else {
            // Nobody looks before the next look.
            self.now += LOOK_MS;
            self.market.advance(self.now);
            self.boxes();
            self.note_late(before);
            self.look();
        }
    }

    fn end(mut self) -> (Cost, Self) {
        self.market.destroy(self.now, self.id).unwrap();
        let end_us = self.now * 1000;
        for open in self
            .intervals
            .iter_mut()
            .filter(|open| open.to_us.is_none())
        {
            open.to_us = Some(end_us);
        }
        // A while later, when the bill is read.
        self.now += 3_600_000;
        (
            ledger::attempt_cost(&self.intervals, 1, self.now * 1000),
            self,
        )
    }
}

#[test]
fn the_ledger_equals_the_bill_over_a_thousand_random_lives() {
    let mut furthest = 0.0_f64;
    for seed in 0..LIVES {
        let mut dice = Dice(seed);
        let mut life = Life::begin(&mut dice);
        for _ in 0..dice.roll(12) {
            let until = life.now + 1000 * (1 + dice.roll(4 * 3600)) as Millis;
            life.pass(until);
            life.happen(&mut dice);
        }
        let until = life.now + 1000 * (60 + dice.roll(24 * 3600)) as Millis;
        life.pass(until);
        if dice.chance(50) {
            let (down, up) = (dice.roll(50) as f64, dice.roll(20) as f64);
            life.market
                .add_traffic(life.now, life.id, down, up)
                .unwrap();
        }
        let (ours, life) = life.end();
        let instance = &life.market.instances()[&life.id];
        let bill = &instance.bill;

        // By our own looks: to the cent, but for what changed between two of them.
        let gpu_and_disk = bill.gpu_usd(life.now) + bill.storage_usd(life.now);
        let apart = (ours.total_usd() - gpu_and_disk).abs();
        let between_looks =
            f64::from(life.seen_late) * life.dearest_usd_per_hour * LOOK_MS as f64 / 3.6e6;
        assert!(
            apart < 0.005 + between_looks,
            "seed {seed}: ours {ours:?}, bill {gpu_and_disk}, {} changes seen late at up to {} $/h\n{:#?}\n{:#?}",
            life.seen_late,
            life.dearest_usd_per_hour,
            life.intervals,
            bill.intervals
        );
        assert!(ours.gpu_usd >= 0.0 && ours.bandwidth_usd == 0.0);
        if between_looks == 0.0 {
            furthest = furthest.max(apart);
        }

        // With the charges of the ended box: to the cent, whatever we saw.
        let row = account::charge(instance, 0, life.now, true).unwrap();
        let charges = vast::read_charges(&[row], &[life.id]);
        let charged = Charged {
            attempt: 1,
            cost: Cost::from(&charges[0]),
            is_final: true,
        };
        let total = ledger::run_cost(&life.intervals, &[charged], life.now * 1000);
        assert!(
            (total.total_usd() - bill.total_usd(life.now)).abs() < 0.005,
            "seed {seed}"
        );
        assert!(
            (total.bandwidth_usd - bill.traffic_usd()).abs() < 0.005,
            "seed {seed}"
        );
    }
    assert!(
        furthest < 0.005,
        "lives in which nothing came late are equal to the cent: {furthest}"
    );
}

#[test]
fn a_life_that_we_alone_decide_is_exact() {
    let mut dice = Dice(7);
    let mut life = Life::begin(&mut dice);
    life.pass(T0 + 3_600_000);
    life.market.stop(life.now, life.id).unwrap();
    life.boxes();
    life.look();
    life.pass(T0 + 7_200_000);
    let (ours, life) = life.end();
    let bill = &life.market.instances()[&life.id].bill;
    // The start of the container is told by the provider, though it was seen ten seconds later.
    assert!(
        (ours.gpu_usd - bill.gpu_usd(life.now)).abs() < 1e-6,
        "{ours:?} {bill:?}"
    );
    assert!((ours.disk_usd - bill.storage_usd(life.now)).abs() < 1e-6);
    assert_eq!(
        life.intervals
            .iter()
            .filter(|known| known.kind == CostKind::Disk)
            .count(),
        1
    );
}
