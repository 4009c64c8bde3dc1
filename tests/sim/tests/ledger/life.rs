//! One run's life in a simulated market, its boxes and what is done to them, and our ledger of it.

use serde_json::Value;
use spotter::{
    clock::Clock,
    ledger::{
        self, CostKind, Interval,
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
    vast::rows,
};

/// When every life begins.
pub const T0: Millis = 1_795_000_000_000;
/// Between two looks of the controller.
const LOOK_MS: Millis = 10_000;

/// Numbers from a seed; the same everywhere.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }
}

/// A store in memory, where there is any, and the folder that it lies in.
pub fn store() -> (Store, tempfile::TempDir) {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let dir = dir.unwrap();
    let store = Store::open(&dir.path().join("store.db"), Clock::new(|| T0 * 1000));
    (store.unwrap(), dir)
}

/// When somebody looks at the box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// As it changes.
    AtOnce,
    /// Every ten seconds.
    Polls,
    /// Every ten seconds, but for hours now and then.
    Sleeps,
}

/// One run, its market, and our ledger of it.
pub struct Life<'a> {
    pub market: Market,
    store: &'a Store,
    pub run: String,
    /// Boxes, the newest last; attempts are numbered in their order from 1.
    pub ids: Vec<InstanceId>,
    pub now: Millis,
    looked_ms: Millis,
    /// What looks that came late may have got wrong.
    pub late_usd: f64,
    watch: Watch,
}

impl<'a> Life<'a> {
    pub fn begin(dice: &mut Dice, store: &'a Store, run: String, watch: Watch) -> Self {
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
    pub fn rent(&mut self, dice: &mut Dice) {
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

    pub fn id(&self) -> InstanceId {
        *self.ids.last().unwrap()
    }

    pub fn attempt(&self) -> u32 {
        self.ids.len() as u32
    }

    pub fn bill(&self, id: InstanceId) -> &Bill {
        &self.market.instances()[&id].bill
    }

    /// What the provider says now, read by the client that talks to the real one.
    pub fn seen(&self) -> Instance {
        let instance = &self.market.instances()[&self.id()];
        let row = rows::instance(&self.market, instance, self.now);
        vast::read_instance(&Value::Object(row), self.now as f64 / 1000.0).unwrap()
    }

    pub fn intervals(&self) -> Vec<Interval> {
        self.store.intervals(&self.run).unwrap()
    }

    pub fn look(&mut self) {
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
    pub fn check_rates(&self) {
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
    pub fn late(&self) -> f64 {
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
    pub fn pass(&mut self, until: Millis) {
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
    pub fn off(&mut self, until: Millis) {
        self.boxes();
        while let Some(due) = self.market.next_due().filter(|due| *due < until) {
            self.go(due.max(self.now));
        }
        self.go(until);
    }

    pub fn go(&mut self, to: Millis) {
        self.now = to;
        self.market.advance(to);
        self.boxes();
    }

    /// Boxes do at once what their host is told.
    pub fn boxes(&mut self) {
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
    pub fn happen(&mut self, dice: &mut Dice) {
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
    pub fn attempt_to_its_end(&mut self, dice: &mut Dice) {
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
    pub fn move_gb(&mut self, down: u64, up: u64) {
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

    pub fn destroy(&mut self) {
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
    pub fn both_usd(&self) -> (f64, f64) {
        let ours = ledger::run_cost(&self.intervals(), &[], self.now * 1000);
        assert!(ours.gpu_usd >= 0.0);
        (ours.total_usd(), self.billed_usd())
    }

    pub fn billed_usd(&self) -> f64 {
        let bills = self.ids.iter().map(|id| self.bill(*id));
        bills
            .map(|bill| bill.gpu_usd(self.now) + bill.storage_usd(self.now) + bill.traffic_usd())
            .sum()
    }
}

/// A life from its first box to its last bill.
pub fn lived<'a>(seed: u64, store: &'a Store, watch: Watch) -> Life<'a> {
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
