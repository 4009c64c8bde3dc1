//! The controller's money in a life: what looks at boxes show becomes intervals, the budget is held against them, and at the end the
//! bill is.

use spotter::{
    agent_client::Allowance,
    ledger::{self, Charged, Cost, CostKind, Interval, Rates},
    provider::{Actual, Instance, Intended, Offer, Rental, memory},
    run::{
        budget::{self, Purse, Standing},
        pricing,
    },
    spec::Resources,
};
use spotter_sim::{
    market::Millis,
    random_market::{
        HOUR_MS, Offered,
        tenancy::{Presence, Rented, Tenancy},
    },
};

use crate::life::{Job, LOOK_MS};

/// A box is finished in order this long before the money ends, at most; what is decided then is decided at each look.
const NEAR_MS: Millis = 13 * 60_000;

/// What one run spends, as its controller sees it.
pub struct Books {
    purse: Purse,
    intervals: Vec<Interval>,
    /// Changes that were only seen at a look after them, and the dearest price of them.
    seen_late: u32,
    dearest_usd_per_hour: f64,
}

impl Books {
    /// Nothing is spent yet.
    pub fn new(job: &Job) -> Self {
        Self {
            purse: Purse {
                budget_usd: job.budget_usd,
                storage_days: job.storage_days,
            },
            intervals: Vec::new(),
            seen_late: 0,
            dearest_usd_per_hour: 0.0,
        }
    }

    /// A look at a box; attempts are numbered as boxes are.
    pub fn look(&mut self, tenancy: &Tenancy<'_>, id: usize, now: Millis) {
        let rented = &tenancy.boxes[id];
        let attempt = id as u32 + 1;
        let now_us = now * 1000;
        if rented.destroyed_ms.is_some() {
            let open = self
                .intervals
                .iter_mut()
                .filter(|known| known.attempt == attempt && known.to_us.is_none());
            for known in open {
                known.to_us = Some(now_us);
            }
            return;
        }
        let seen = instance(rented, tenancy.presence(id), id);
        for change in ledger::changes(&self.intervals, attempt, &seen, now_us) {
            let open = self.intervals.iter_mut().find(|known| {
                known.attempt == attempt && known.kind == change.kind && known.to_us.is_none()
            });
            let first = open.is_none();
            if let Some(open) = open {
                open.to_us = Some(change.from_us.max(open.from_us));
            }
            // The order itself, and a container that came up, are dated; everything else happened since the last look.
            if !(first && change.kind == CostKind::Gpu && seen.up_since_s.is_some()) {
                self.seen_late += 1;
            }
            self.dearest_usd_per_hour = self
                .dearest_usd_per_hour
                .max(seen.gpu_usd_per_hour + seen.storage_usd_per_hour);
            if change.usd_per_hour > 0.0 {
                self.intervals.push(Interval {
                    attempt,
                    kind: change.kind,
                    from_us: change.from_us,
                    to_us: None,
                    usd_per_hour: change.usd_per_hour,
                });
            }
        }
    }

    /// What was spent until now, by the controller's own looks.
    pub fn spent_usd(&self, now: Millis) -> f64 {
        ledger::run_cost(&self.intervals, &[], now * 1000).total_usd()
    }

    /// Whether the budget holds the disk of an offer for as long as a stopped box may wait, and leaves something to train with.
    pub fn holds(&self, offered: &Offered, gpu_usd_per_hour: f64, job: &Job, now: Millis) -> bool {
        let rates = Rates {
            gpu_usd_per_hour,
            disk_usd_per_hour: offered.storage_usd_per_gb_month * job.disk_gb / 720.0,
        };
        budget::shortage(self.purse, self.spent_usd(now), rates).is_none()
    }

    /// What may be spent beside what is held back for a disk at this price, dollars.
    pub fn free_usd(&self, disk_usd_per_hour: f64, now: Millis) -> f64 {
        let held_usd = budget::held_back_usd(self.purse, disk_usd_per_hour);
        self.purse.budget_usd - self.spent_usd(now) - held_usd
    }

    /// What would be paid for the GPU of an offer; `None`: the run file does not allow it. `headroom`: `None` rents on-demand.
    pub fn order(
        &self,
        offered: &Offered,
        headroom: Option<f64>,
        job: &Job,
        now: Millis,
    ) -> Option<f64> {
        let storage_usd_per_hour = offered.storage_usd_per_gb_month * job.disk_gb / 720.0;
        let offer = Offer {
            machine_id: offered.machine as u64,
            gpu_usd_per_hour: match headroom {
                Some(_) => offered.min_bid_usd_per_hour,
                None => offered.list_usd_per_hour,
            },
            min_bid_usd_per_hour: headroom.map(|_| offered.min_bid_usd_per_hour),
            storage_usd_per_hour,
            ..memory::offer(1)
        };
        let resources = Resources {
            gpu_name: None,
            num_gpus: 1,
            disk_gb: job.disk_gb,
            rental: match headroom {
                Some(_) => Rental::Interruptible,
                None => Rental::OnDemand,
            },
            filters: Vec::new(),
            max_price_usd_per_hour: None,
            bid_headroom: headroom.unwrap_or_default(),
            bid_max_usd_per_hour: Some(job.max_bid_usd_per_hour),
            prepay_usd: None,
            hosts: Vec::new(),
        };
        let order = pricing::order(&offer, &resources).ok()?;
        let free_usd = self.free_usd(storage_usd_per_hour, now);
        let gpu_usd_per_hour =
            pricing::within_budget(order, &offer, Some(free_usd)).gpu_usd_per_hour;
        self.holds(offered, gpu_usd_per_hour, job, now)
            .then_some(gpu_usd_per_hour)
    }

    /// What is paid now, $/h.
    pub fn rate_usd_per_hour(&self) -> f64 {
        ledger::rate_usd_per_hour(&self.intervals, None)
    }

    /// Whether the box must be finished now.
    pub fn must_finish(&self, now: Millis) -> bool {
        let rate = self.rate_usd_per_hour();
        let (spent_usd, disk) = (self.spent_usd(now), self.disk_usd_per_hour());
        let standing = budget::standing(Some(self.purse), spent_usd, rate, disk);
        matches!(standing, Standing::Finish { .. })
    }

    /// The disk of the newest box, $/h; 0: there is none.
    fn disk_usd_per_hour(&self) -> f64 {
        let open = |known: &&Interval| known.kind == CostKind::Disk && known.to_us.is_none();
        let disks = self.intervals.iter().filter(open);
        let newest = disks.max_by_key(|known| known.attempt);
        newest.map_or(0.0, |known| known.usd_per_hour)
    }

    /// How long the box may train on without anybody, and how long its end may take.
    pub fn alone(&self, rented: &Rented, now: Millis) -> Allowance {
        let rates = Rates {
            gpu_usd_per_hour: rented.gpu_usd_per_hour(),
            disk_usd_per_hour: rented.storage_usd_per_hour,
        };
        budget::alone(Some(self.purse), self.spent_usd(now), rates)
            .expect("there is a budget, and a box costs something")
    }

    /// Time in which the budget cannot become a matter at the present price; near its end, until the next look.
    pub fn safe_ms(&self, now: Millis) -> Millis {
        let rate = self.rate_usd_per_hour();
        if rate <= 0.0 {
            return 24 * HOUR_MS;
        }
        let left_usd = self.free_usd(self.disk_usd_per_hour(), now);
        let left_h = (left_usd / rate).min(1e4);
        ((left_h * HOUR_MS as f64) as Millis - NEAR_MS).max(LOOK_MS)
    }

    /// At the end: our own figure is the bill but for what was seen late, and with the provider's charges it is the bill to the cent.
    pub fn close(&mut self, tenancy: &Tenancy<'_>, now: Millis) {
        let bill_usd = tenancy.total_usd(now);
        let ours_usd = self.spent_usd(now);
        let between_looks =
            f64::from(self.seen_late) * self.dearest_usd_per_hour * LOOK_MS as f64 / HOUR_MS as f64;
        assert!(
            (ours_usd - bill_usd).abs() < 0.005 + between_looks,
            "ours {ours_usd}, bill {bill_usd}, {} changes seen late",
            self.seen_late
        );
        let charges: Vec<Charged> = tenancy
            .boxes
            .iter()
            .enumerate()
            .map(|(id, rented)| Charged {
                attempt: id as u32 + 1,
                cost: Cost {
                    gpu_usd: rented.bill.gpu_usd(now),
                    disk_usd: rented.bill.storage_usd(now),
                    bandwidth_usd: 0.0,
                },
                is_final: true,
            })
            .collect();
        let total = ledger::run_cost(&self.intervals, &charges, now * 1000).total_usd();
        assert!((total - bill_usd).abs() < 0.005, "{total} {bill_usd}");
        assert!(
            bill_usd <= self.purse.budget_usd,
            "{bill_usd} of {}",
            self.purse.budget_usd
        );
        assert!(self.intervals.iter().all(|known| known.to_us.is_some()));
    }
}

/// A box as the controller sees it.
fn instance(rented: &Rented, presence: Presence, id: usize) -> Instance {
    let actual = match presence {
        Presence::Coming => Actual::Loading,
        Presence::Up => Actual::Running,
        Presence::Away => Actual::Exited,
        Presence::Offline => Actual::Offline,
    };
    Instance {
        id: id as u64,
        machine_id: rented.machine as u64,
        label: None,
        intended: match rented.wants_to_run() {
            true => Intended::Running,
            false => Intended::Stopped,
        },
        actual,
        contract_running: matches!(presence, Presence::Coming | Presence::Up),
        scheduling: presence == Presence::Away && rented.wants_to_run(),
        status_msg: String::new(),
        is_bid: Some(rented.bid_usd_per_hour.is_some()),
        gpu_usd_per_hour: rented.gpu_usd_per_hour(),
        storage_usd_per_hour: rented.storage_usd_per_hour,
        disk_gb: 0.0,
        gpu_name: String::new(),
        num_gpus: 1,
        ssh: Vec::new(),
        start_s: 0.0,
        end_s: None,
        up_since_s: rented.up_since_ms.map(|since_ms| since_ms as f64 / 1000.0),
        charged_gpu_usd_per_hour: None,
        inet_down_mbps: 0.0,
        inet_down_usd_per_gb: 0.0,
        inet_up_usd_per_gb: 0.0,
    }
}
