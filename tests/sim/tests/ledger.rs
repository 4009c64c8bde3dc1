//! Our ledger against the market's bill, over random lives of runs: boxes that are rented, outbid, stopped, started, rebooted, lost with
//! their host, found again, bid for anew, destroyed, and rented again; looked at every ten seconds, but for hours in which the laptop is
//! off. The market's clock is simulated; the ledger is the store's own, in memory.
//!
//! Seen as it happens, every change of state gives the bill to the cent. What a look sees late may be wrong by its own difference in price
//! over its own delay, and not by anything more. Of what happens behind a closed lid the provider tells when a container came up and what was charged in all, and no moment at which a charge ended: there our own
//! looks alone are hours off, and the bill, which is held against them and counts, makes them right.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may hope, and tell"
)]

use serde_json::Value;
use spotter::{
    clock::Clock,
    ledger::{
        self, Charged, Cost, CostKind, Interval,
        traffic::{Counters, Line, Traffic},
    },
    provider::{Instance, vast},
    store::Store,
};
use spotter_sim::{
    market::{
        Account, Delays, Effect, InstanceId, Market, Millis,
        bill::Bill,
        catalogue,
        contracts::Intruder,
        instance::{Order, Restart},
    },
    vast::{account, rows},
};

const T0: Millis = 1_795_000_000_000;
/// Between two looks of the controller.
const LOOK_MS: Millis = 10_000;
const LIVES: u64 = 1000;
/// Of a thousand lives in which somebody looks all the time, so many our own looks alone get right to the cent, at least. A watcher looks
/// every ten seconds, the provider does not say when in between a charge ended, and ten seconds of eight large GPUs are a nickel.
const EXACT_LIVES: usize = 700;
/// Lives of a thousand with hours that nobody saw, whose bill may be so far below what was metered that it is not believed: of two figures
/// that cannot both be true the dearer one counts.
const DOUBTED_LIVES: usize = 20;
/// What floats may lose over a life, dollars.
const ROUNDING_USD: f64 = 1e-6;

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

/// A store in memory, where there is any, and the folder that it lies in.
fn store() -> (Store, tempfile::TempDir) {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let dir = dir.unwrap();
    let store = Store::open(&dir.path().join("store.db"), Clock::new(|| T0 * 1000));
    (store.unwrap(), dir)
}

/// When somebody looks at the box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watch {
    /// As it changes.
    AtOnce,
    /// Every ten seconds.
    Polls,
    /// Every ten seconds, but for hours now and then.
    Sleeps,
}

/// One run, its market, and our ledger of it.
struct Life<'a> {
    market: Market,
    store: &'a Store,
    run: String,
    /// Boxes, the newest last; attempts are numbered in their order from 1.
    ids: Vec<InstanceId>,
    now: Millis,
    looked_ms: Millis,
    /// What looks that came late may have got wrong.
    late_usd: f64,
    watch: Watch,
}

impl<'a> Life<'a> {
    fn begin(dice: &mut Dice, store: &'a Store, run: String, watch: Watch) -> Self {
        let account = Account {
            id: 1,
            api_keys: Vec::new(),
            deposit_usd: 1e6,
            ssh_keys: Vec::new(),
        };
        let machines = catalogue::machines(dice.roll(1000), T0);
        let mut life = Self {
            market: Market::new(1, Delays::scaled(1.0), machines, vec![account], T0),
            store,
            run,
            ids: Vec::new(),
            now: T0,
            looked_ms: T0,
            late_usd: 0.0,
            watch,
        };
        life.rent(dice);
        life
    }

    /// Rents some box; as the answer to the order comes its disk is paid for.
    fn rent(&mut self, dice: &mut Dice) {
        let offers: Vec<(u64, f64)> = self
            .market
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
        let id = self.market.rent(self.now, 0, offer, order).unwrap().id;
        self.ids.push(id);
        self.looked_ms = self.now;
        let disk_usd_per_hour = self.market.instances()[&id].storage_usd_per_hour;
        let (from_us, attempt) = (self.now * 1000, self.attempt());
        self.store
            .open_interval(
                &self.run,
                attempt,
                CostKind::Disk,
                from_us,
                disk_usd_per_hour,
            )
            .unwrap();
        self.look();
    }

    fn id(&self) -> InstanceId {
        *self.ids.last().unwrap()
    }

    fn attempt(&self) -> u32 {
        self.ids.len() as u32
    }

    fn bill(&self, id: InstanceId) -> &Bill {
        &self.market.instances()[&id].bill
    }

    /// What the provider says now, read by the client that talks to the real one.
    fn seen(&self) -> Instance {
        let instance = &self.market.instances()[&self.id()];
        let row = rows::instance(&self.market, instance, self.now);
        vast::read_instance(&Value::Object(row), self.now as f64 / 1000.0).unwrap()
    }

    fn intervals(&self) -> Vec<Interval> {
        self.store.intervals(&self.run).unwrap()
    }

    fn look(&mut self) {
        self.late_usd += self.late();
        let (now_us, seen, attempt) = (self.now * 1000, self.seen(), self.attempt());
        // What ended long ago is dated by what was charged, as the controller does it.
        let intervals = self.intervals();
        let is_old = intervals.iter().any(|known| {
            let open = known.attempt == attempt && known.kind == CostKind::Gpu;
            open && known.to_us.is_none() && now_us - known.from_us > ledger::UNSEEN_US
        });
        if is_old && ledger::rates(&seen).gpu_usd_per_hour <= 0.0 {
            let charged_usd = self.bill(self.id()).gpu_usd(self.now);
            let until_us = ledger::charged_until(&intervals, attempt, charged_usd)
                .map(|until_us| until_us + ledger::UNSEEN_US)
                .filter(|until_us| *until_us < now_us);
            if let Some(until_us) = until_us {
                self.store
                    .close_interval(&self.run, attempt, CostKind::Gpu, until_us)
                    .unwrap();
            }
        }
        self.store.meter(&self.run, attempt, &seen, now_us).unwrap();
        self.looked_ms = self.now;
        self.check_rates();
    }

    /// From a look on, each thing is metered at the price that it has: a ledger that saw nothing would call every difference late.
    fn check_rates(&self) {
        let bill = self.bill(self.id()).intervals.last();
        let charged = bill.filter(|open| open.end_ms.is_none());
        let charged = charged.map_or((0.0, 0.0), |open| {
            (open.gpu_usd_per_hour, open.storage_usd_per_hour)
        });
        let mut known = (0.0, 0.0);
        for open in self.intervals() {
            match open.kind {
                _ if open.attempt != self.attempt() || open.to_us.is_some() => {}
                CostKind::Gpu => known.0 += open.usd_per_hour,
                CostKind::Disk => known.1 += open.usd_per_hour,
                CostKind::Traffic => panic!("it is counted, not metered"),
            }
        }
        let same = |ours: f64, theirs: f64| (ours - theirs).abs() <= theirs * 1e-5;
        assert!(
            same(known.0, charged.0) && same(known.1, charged.1),
            "{}: metered at {known:?}, charged at {charged:?}",
            self.run
        );
    }

    /// Dollars by which the bill since the last look and what was known at it differ, each stretch by itself.
    fn late(&self) -> f64 {
        let known = self.intervals();
        let open = |kind: CostKind| {
            let of = |known: &&Interval| {
                known.attempt == self.attempt() && known.kind == kind && known.to_us.is_none()
            };
            known
                .iter()
                .find(of)
                .map_or(0.0, |known| known.usd_per_hour)
        };
        let (gpu, disk) = (open(CostKind::Gpu), open(CostKind::Disk));
        let stretches = self.bill(self.id()).intervals.iter();
        stretches
            .map(|stretch| {
                let hours = stretch.millis_within(self.looked_ms, self.now) as f64 / 3.6e6;
                let apart = (stretch.gpu_usd_per_hour - gpu).abs()
                    + (stretch.storage_usd_per_hour - disk).abs();
                apart * hours
            })
            .sum()
    }

    /// Lets time pass until `until`, with a look after everything that happened.
    fn pass(&mut self, until: Millis) {
        while self.now < until {
            self.boxes();
            let due = self.market.next_due().filter(|due| *due <= until);
            self.go(due.unwrap_or(until).max(self.now));
            if due.is_some() && self.watch == Watch::AtOnce {
                self.look();
                continue;
            }
            let look = ((self.now - T0) / LOOK_MS + 1) * LOOK_MS + T0;
            if due.is_some() && look <= until {
                // What else happens until the look is seen with it.
                self.off(look);
                self.look();
            }
        }
        // Whatever is done next to the box, it is looked at first.
        self.look();
    }

    /// Lets time pass until `until` while nobody looks.
    fn off(&mut self, until: Millis) {
        self.boxes();
        while let Some(due) = self.market.next_due().filter(|due| *due < until) {
            self.go(due.max(self.now));
        }
        self.go(until);
    }

    fn go(&mut self, to: Millis) {
        self.now = to;
        self.market.advance(to);
        self.boxes();
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

    /// Something happens to the box: by us, which we know at once, or by the market, which the next look sees.
    fn happen(&mut self, dice: &mut Dice) {
        let (now, id) = (self.now, self.id());
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
        if !ours && self.watch != Watch::AtOnce {
            // Nobody looks before the next look; one in four is hours away.
            let hours = match dice.chance(25) && self.watch == Watch::Sleeps {
                true => 1 + dice.roll(9),
                false => 0,
            };
            self.off(now + LOOK_MS + hours as Millis * 3_600_000);
        }
        self.look();
    }

    /// One box from its order to its end.
    fn attempt_to_its_end(&mut self, dice: &mut Dice) {
        for _ in 0..dice.roll(8) {
            let until = self.now + 1000 * (1 + dice.roll(4 * 3600)) as Millis;
            self.pass(until);
            self.happen(dice);
        }
        let until = self.now + 1000 * (60 + dice.roll(24 * 3600)) as Millis;
        self.pass(until);
        if dice.chance(50) {
            let (down, up) = (dice.roll(50), dice.roll(20));
            self.move_gb(down, up);
        }
        self.destroy();
    }

    /// Bytes go over the network; the box counts them, and is asked before its end.
    fn move_gb(&mut self, down: u64, up: u64) {
        let seen = self.seen();
        self.market
            .add_traffic(self.now, self.id(), down as f64, up as f64)
            .unwrap();
        let line = Line {
            down_usd_per_gb: seen.inet_down_usd_per_gb,
            up_usd_per_gb: seen.inet_up_usd_per_gb,
            // What a line cannot carry is not the box's own; that has tests of its own.
            mbps: 1e6,
        };
        let counters = Counters {
            received: down * 1_000_000_000,
            sent: up * 1_000_000_000,
        };
        let since_us = (seen.start_s * 1e6) as i64;
        let counted = Traffic::with(None, counters, &line, since_us, self.now * 1000);
        self.store
            .record_traffic(&self.run, self.attempt(), &counted)
            .unwrap();
    }

    fn destroy(&mut self) {
        self.market.destroy(self.now, self.id()).unwrap();
        self.boxes();
        for kind in [CostKind::Gpu, CostKind::Disk] {
            let (attempt, now_us) = (self.attempt(), self.now * 1000);
            self.store
                .close_interval(&self.run, attempt, kind, now_us)
                .unwrap();
        }
    }

    /// Dollars by our own looks, and by the bill, traffic in both.
    fn both_usd(&self) -> (f64, f64) {
        let ours = ledger::run_cost(&self.intervals(), &[], self.now * 1000);
        assert!(ours.gpu_usd >= 0.0);
        (ours.total_usd(), self.billed_usd())
    }

    fn billed_usd(&self) -> f64 {
        let bills = self.ids.iter().map(|id| self.bill(*id));
        bills
            .map(|bill| bill.gpu_usd(self.now) + bill.storage_usd(self.now) + bill.traffic_usd())
            .sum()
    }
}

/// A life from its first box to its last bill.
fn lived<'a>(seed: u64, store: &'a Store, watch: Watch) -> Life<'a> {
    let mut dice = Dice(seed);
    let mut life = Life::begin(&mut dice, store, format!("life-{seed}"), watch);
    life.attempt_to_its_end(&mut dice);
    for _ in 0..dice.roll(3) {
        // Between two boxes nothing is paid.
        let pause_s = dice.roll(3600) as Millis;
        life.off(life.now + 1000 * pause_s);
        life.rent(&mut dice);
        life.attempt_to_its_end(&mut dice);
    }
    // A while later, when the bill is read.
    life.now += 3_600_000;
    life
}

/// By our own looks alone, no life is further off than what was changed before a look; with the bill all of them are equal to the cent.
/// Answers how many were equal before it, and how many bills were not believed.
fn held_against_bills(watch: Watch) -> (usize, usize) {
    let (store, _dir) = store();
    let (mut apart_usd, mut late_usd): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
    let (mut attempts, mut doubted) = (0, 0);
    for seed in 0..LIVES {
        let life = lived(seed, &store, watch);
        attempts += life.ids.len();
        let (ours, bill) = life.both_usd();
        let apart = (ours - bill).abs();
        assert!(
            apart <= life.late_usd + ROUNDING_USD,
            "seed {seed}: ours ${ours}, bill ${bill}, ${} for what was seen late\n{:#?}\n{:#?}",
            life.late_usd,
            life.intervals(),
            life.ids.iter().map(|id| life.bill(*id)).collect::<Vec<_>>()
        );
        apart_usd.push(apart);
        late_usd.push(life.late_usd);
        let charges = check_charges(&life);
        let (intervals, now_us) = (life.intervals(), life.now * 1000);
        let held = ledger::run_cost(&intervals, &charges, now_us).total_usd();
        let believed = charges
            .iter()
            .all(|read| ledger::is_plausible(&intervals, read.attempt, read.cost, now_us));
        let is_right = match believed {
            true => (held - bill).abs() < 0.005,
            false => held > bill - 0.005,
        };
        assert!(
            is_right,
            "seed {seed}: ${held} with the bill of ${bill}, ${ours} by our own looks"
        );
        doubted += usize::from(!believed && held > bill + 0.005);
    }
    let exact = apart_usd.iter().filter(|apart| **apart < 0.005).count();
    let (middle, worst) = median_and_worst(apart_usd);
    let (late_middle, late_worst) = median_and_worst(late_usd);
    println!(
        "{LIVES} lives, {attempts} boxes, watch: {watch:?}; by our own looks alone {exact} equal to the cent, with the bill {}; by our own \
         looks apart by ${middle:.6} (median) and ${worst:.2} (worst), where ${late_middle:.4} and ${late_worst:.2} were changed before a look",
        LIVES as usize - doubted
    );
    (exact, doubted)
}

#[test]
fn the_ledger_equals_the_bill_over_a_thousand_random_lives_whose_changes_are_seen_as_they_happen() {
    let (exact, doubted) = held_against_bills(Watch::AtOnce);
    assert_eq!(
        (exact, doubted),
        (LIVES as usize, 0),
        "by our own looks alone"
    );
}

#[test]
fn the_ledger_equals_the_bill_over_a_thousand_random_lives_that_are_watched() {
    let (exact, doubted) = held_against_bills(Watch::Polls);
    assert!(exact >= EXACT_LIVES, "{exact} of {LIVES}");
    assert_eq!(doubted, 0, "with the bill all are equal to the cent");
}

#[test]
fn the_ledger_equals_the_bill_over_a_thousand_random_lives_in_which_the_lid_is_closed_for_hours() {
    let (_, doubted) = held_against_bills(Watch::Sleeps);
    assert!(doubted <= DOUBTED_LIVES, "{doubted} of {LIVES}");
}

fn median_and_worst(mut numbers: Vec<f64>) -> (f64, f64) {
    numbers.sort_by(f64::total_cmp);
    (numbers[numbers.len() / 2], numbers[numbers.len() - 1])
}

/// The provider's account of all boxes, told apart by box: each attempt has its own, traffic too.
fn check_charges(life: &Life<'_>) -> Vec<Charged> {
    let instances = life.market.instances();
    let rows: Vec<Value> = life
        .ids
        .iter()
        .map(|id| account::charge(&instances[id], 0, life.now, true).unwrap())
        .collect();
    let mut read = Vec::new();
    for (index, id) in life.ids.iter().enumerate() {
        let charges = vast::read_charges(&rows, &[*id]);
        let bill = life.bill(*id);
        assert_eq!(charges.len(), 1);
        assert!((charges[0].gpu_usd - bill.gpu_usd(life.now)).abs() < ROUNDING_USD);
        assert!((charges[0].disk_usd - bill.storage_usd(life.now)).abs() < ROUNDING_USD);
        assert!((charges[0].bandwidth_usd - bill.traffic_usd()).abs() < ROUNDING_USD);
        read.push(Charged {
            attempt: index as u32 + 1,
            cost: Cost::from(&charges[0]),
            is_final: true,
        });
    }
    read
}

#[test]
fn a_life_that_we_alone_decide_is_exact() {
    let (store, _dir) = store();
    let mut life = Life::begin(&mut Dice(7), &store, "ours".to_owned(), Watch::Polls);
    life.pass(T0 + 3_600_000);
    life.market.stop(life.now, life.id()).unwrap();
    life.boxes();
    life.look();
    life.pass(T0 + 7_200_000);
    life.destroy();
    // The start of the container is told by the provider, though it was seen ten seconds later.
    let (ours, bill) = life.both_usd();
    assert!((ours - bill).abs() < ROUNDING_USD, "{ours} {bill}");
    let disks = life.intervals();
    let disks = disks.iter().filter(|known| known.kind == CostKind::Disk);
    assert_eq!(disks.count(), 1);
}

/// The laptop is off when the market gives a box back: how long its container runs tells since when it is charged.
#[test]
fn a_box_that_came_back_while_nobody_looked_is_charged_from_the_minute_it_came_up() {
    let (store, _dir) = store();
    let mut checked = 0;
    for seed in 0..40 {
        let mut life = Life::begin(
            &mut Dice(seed),
            &store,
            format!("off-{seed}"),
            Watch::Sleeps,
        );
        if life.market.instances()[&life.id()]
            .order
            .bid_usd_per_hour
            .is_none()
        {
            continue;
        }
        life.pass(T0 + 3_600_000);
        let intruder = Intruder {
            on_demand: true,
            bid_usd_per_hour: None,
            stays_ms: Some(2 * 3_600_000),
        };
        life.market.outbid(life.now, life.id(), intruder).unwrap();
        life.boxes();
        life.look();
        // It is stopped, and known to be. Two hours later it runs again; the next look is three hours after that.
        life.off(life.now + 5 * 3_600_000);
        assert!(life.seen().contract_running);
        life.look();
        assert!(life.late_usd > 0.0);
        life.destroy();
        let (ours, bill) = life.both_usd();
        assert!(
            (ours - bill).abs() < ROUNDING_USD,
            "seed {seed}: {ours} {bill}"
        );
        checked += 1;
    }
    assert!(checked >= 20, "{checked} lives by bid");
}
