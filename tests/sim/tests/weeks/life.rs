//! One run in a random market, from its first order to the end of its last box, in virtual time.
//!
//! What is decided is decided by the controller's own pure functions; what is done here is only what its steps do with them.

use spotter::{
    run::choosing::{self, Crossroads, Elsewhere, Past, Restore, Way},
    spec::DEFAULT_HEADROOM_BY_PRICE,
};
use spotter_sim::{
    market::Millis,
    random_market::{
        HOUR_MS, Offered, RandomMarket,
        tenancy::{Presence, Tenancy},
    },
};

use crate::books::Books;

/// Between two looks of the controller.
pub const LOOK_MS: Millis = 10_000;
/// Between two looks at a market that has nothing to take.
const MARKET_PAUSE_MS: Millis = 60_000;
/// Between two choices while a box is waited for.
const CHOOSE_EVERY_MS: Millis = 5 * 60_000;

/// The end of a box takes so long, and no more than this share of a small budget: a little less than it is given.
const FINISH_MS: Millis = 9 * 60_000;
const FINISH_SHARE: f64 = 0.09;

/// What is to be trained, within which limits.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    /// Hours of training.
    pub hours: f64,
    /// Between two checkpoints, hours.
    pub every_h: f64,
    /// From a box that is up to its training: agent, code, set-up and the newest checkpoint from the bucket, GPU charged, hours.
    pub setup_h: f64,
    /// From a box that is back to its training, hours.
    pub return_h: f64,
    /// A checkpoint is in the bucket this long after it was written, hours.
    pub upload_h: f64,
    /// Disk, GB.
    pub disk_gb: f64,
    /// `limits.budget`, dollars.
    pub budget_usd: f64,
    /// `limits.storage_days`.
    pub storage_days: f64,
    /// `resources.bid.max`, $/h.
    pub max_bid_usd_per_hour: f64,
    /// When somebody wants the result, hours.
    pub deadline_h: f64,
}

/// How it is bid, and what is done about an interruption.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Strategy {
    /// The controller's own choices: its headroom, and what it does about an interruption.
    Choice,
    /// The same where nobody said when the result is wanted.
    Hurry,
    /// The price to beat and this share of it; elsewhere after each interruption.
    Elsewhere(f64),
    /// The same; the box is waited for.
    Here(f64),
    /// No bid: the list price, and nobody takes it.
    OnDemand,
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// The bill, dollars.
    pub usd: f64,
    /// When it was done, hours; `None`: it was not, within its budget and the market's horizon.
    pub done_h: Option<f64>,
    /// How often a box was taken.
    pub interruptions: u32,
    /// Waits, raised bids and moves that were chosen.
    pub ways: [u32; 3],
}

/// A run that goes on.
pub struct Life<'a> {
    market: &'a RandomMarket,
    job: Job,
    strategy: Strategy,
    tenancy: Tenancy<'a>,
    books: Books,
    now: Millis,
    /// The box that it has, or waits for.
    own: Option<usize>,
    /// One that was left, until its successor trains.
    old: Option<usize>,
    /// Training that is in the bucket, and on the disk of its box, hours.
    in_bucket_h: f64,
    on_disk_h: f64,
    past: Past,
    /// Hours from orders to trainings, and how many there were.
    brought_up: (f64, u32),
    rented_ms: Millis,
    outcome: Outcome,
}

/// What ended a stretch of time.
enum End {
    /// The box is up.
    Up,
    /// It is not there any more.
    Taken,
    /// Everything is trained.
    Trained,
    /// The money is over, or time itself.
    Over,
}

/// Runs a job in a market.
pub fn live(market: &RandomMarket, job: Job, strategy: Strategy) -> Outcome {
    let mut life = Life {
        market,
        job,
        strategy,
        tenancy: Tenancy::new(market),
        books: Books::new(&job),
        now: 0,
        own: None,
        old: None,
        in_bucket_h: 0.0,
        on_disk_h: 0.0,
        past: Past::default(),
        brought_up: (0.0, 0),
        rented_ms: 0,
        outcome: Outcome {
            usd: 0.0,
            done_h: None,
            interruptions: 0,
            ways: [0; 3],
        },
    };
    life.run();
    life.end()
}

impl Life<'_> {
    fn run(&mut self) {
        loop {
            let Some(id) = self.own.or_else(|| self.rent()) else {
                return;
            };
            let returns = self.own.is_some();
            self.own = Some(id);
            match self.until_up(id) {
                End::Up => {}
                End::Taken => match self.interrupted(id) {
                    true => continue,
                    false => return,
                },
                End::Trained | End::Over => return,
            }
            match self.train(id, returns) {
                End::Trained => {
                    self.outcome.done_h = Some(self.now as f64 / HOUR_MS as f64);
                    return;
                }
                End::Taken => match self.interrupted(id) {
                    true => {}
                    false => return,
                },
                End::Up | End::Over => return,
            }
        }
    }

    /// Everything is destroyed, and the books are held against the bill.
    fn end(mut self) -> Outcome {
        for id in 0..self.tenancy.boxes.len() {
            self.tenancy.destroy(self.now, id);
            self.books.look(&self.tenancy, id, self.now);
        }
        assert_eq!(self.tenancy.alive(), 0);
        self.outcome.usd = self.tenancy.total_usd(self.now);
        self.books.close(&self.tenancy, self.now);
        self.outcome
    }

    /// Rents the cheapest box that the limits allow, however long that takes.
    fn rent(&mut self) -> Option<usize> {
        loop {
            for (offer, gpu_usd_per_hour) in self.affordable() {
                let bid = (self.strategy != Strategy::OnDemand).then_some(gpu_usd_per_hour);
                let rented = self
                    .tenancy
                    .rent(self.now, offer.machine, bid, self.job.disk_gb);
                if let Some(id) = rented {
                    self.rented_ms = self.now;
                    self.books.look(&self.tenancy, id, self.now);
                    return Some(id);
                }
            }
            // What is left of the money grows for nobody.
            let offers = self.market.offers(self.now);
            let holds = |offer| self.books.holds(offer, 0.0, &self.job, self.now);
            if !offers.is_empty() && !offers.iter().any(holds) {
                return None;
            }
            if !self.pass(MARKET_PAUSE_MS) || self.books.must_finish(self.now) {
                return None;
            }
        }
    }

    /// What could be rented, each with what would be paid for its GPU, cheapest all in first.
    fn affordable(&self) -> Vec<(Offered, f64)> {
        let headroom = match self.strategy {
            Strategy::Choice | Strategy::Hurry => Some(DEFAULT_HEADROOM_BY_PRICE),
            Strategy::Elsewhere(headroom) | Strategy::Here(headroom) => Some(headroom),
            Strategy::OnDemand => None,
        };
        let mut found: Vec<(Offered, f64)> = self
            .market
            .offers(self.now)
            .into_iter()
            .filter_map(|offer| {
                let price = self.books.order(&offer, headroom, &self.job, self.now)?;
                Some((offer, price))
            })
            .collect();
        let storage = |offer: &Offered| offer.storage_usd_per_gb_month * self.job.disk_gb / 720.0;
        found.sort_by(|(one, usd), (other, other_usd)| {
            (usd + storage(one)).total_cmp(&(other_usd + storage(other)))
        });
        found
    }

    /// Its container comes up, or somebody takes it before.
    fn until_up(&mut self, id: usize) -> End {
        loop {
            match self.tenancy.presence(id) {
                Presence::Up => return End::Up,
                Presence::Coming => {}
                Presence::Away | Presence::Offline => return End::Taken,
            }
            if !self.pass(HOUR_MS) || self.books.must_finish(self.now) {
                return End::Over;
            }
        }
    }

    /// Set-up, and training until something ends it.
    fn train(&mut self, id: usize, returns: bool) -> End {
        let (setup_h, from_h) = match returns {
            true => (self.job.return_h, self.on_disk_h),
            false => (self.job.setup_h, self.in_bucket_h),
        };
        let up_ms = self.now;
        let begins_ms = up_ms + hours(setup_h);
        let done_ms = begins_ms + hours(self.job.hours - from_h);
        loop {
            let trained_h = from_h + (self.now - begins_ms).max(0) as f64 / HOUR_MS as f64;
            if self.now >= begins_ms {
                if !returns && self.rented_ms < begins_ms {
                    self.brought_up.0 += (begins_ms - self.rented_ms) as f64 / HOUR_MS as f64;
                    self.brought_up.1 += 1;
                    self.rented_ms = begins_ms;
                }
                let whole =
                    |h: f64| ((h / self.job.every_h + 1e-9).floor() * self.job.every_h).max(0.0);
                self.on_disk_h = whole(trained_h).max(from_h);
                let uploaded_h = from_h + (trained_h - from_h - self.job.upload_h).max(0.0);
                self.in_bucket_h = whole(uploaded_h).max(self.in_bucket_h);
                if let Some(old) = self.old.take() {
                    self.tenancy.destroy(self.now, old);
                    self.books.look(&self.tenancy, old, self.now);
                }
            }
            if self.tenancy.presence(id) != Presence::Up {
                self.past.hours += (self.now - up_ms) as f64 / HOUR_MS as f64;
                return End::Taken;
            }
            if self.now >= done_ms {
                return End::Trained;
            }
            if self.books.must_finish(self.now) {
                self.finish();
                return End::Over;
            }
            let next = match self.now < begins_ms {
                true => begins_ms,
                false => done_ms,
            };
            if !self.pass(next - self.now) {
                return End::Over;
            }
        }
    }

    /// A last checkpoint and the results, for as long as a box that must end is given.
    fn finish(&mut self) {
        let rate = self.books.rate_usd_per_hour().max(1e-6);
        let share_h = FINISH_SHARE * self.job.budget_usd / rate;
        let until = self.now + FINISH_MS.min(hours(share_h.min(1.0)));
        while self.now < until && self.pass(until - self.now) {}
    }

    /// What follows; false: nothing can.
    fn interrupted(&mut self, id: usize) -> bool {
        self.outcome.interruptions += 1;
        self.past.interruptions += 1;
        let since = self.now;
        let mut bid_ms = since;
        loop {
            if matches!(self.tenancy.presence(id), Presence::Up | Presence::Coming) {
                self.past.returns += 1;
                return true;
            }
            let lost = self.tenancy.presence(id) == Presence::Offline;
            let way = match self.strategy {
                // Nobody waits for a host that is lost.
                Strategy::Choice | Strategy::Hurry if lost => Way::Move,
                Strategy::Choice | Strategy::Hurry => self.choice(id, self.now - bid_ms),
                Strategy::Here(_) => Way::Wait,
                Strategy::Elsewhere(_) | Strategy::OnDemand => Way::Move,
            };
            if self.now == since {
                self.outcome.ways[match way {
                    Way::Wait => 0,
                    Way::Bid(_) => 1,
                    Way::Move => 2,
                }] += 1;
            }
            match way {
                Way::Move => {
                    self.tenancy.stop(self.now, id);
                    self.leave(id);
                    return true;
                }
                Way::Bid(usd_per_hour) => {
                    assert!(usd_per_hour <= self.job.max_bid_usd_per_hour);
                    self.tenancy.change_bid(self.now, id, usd_per_hour);
                    bid_ms = self.now;
                }
                Way::Wait => {}
            }
            let before = self.now;
            if !self.pass(CHOOSE_EVERY_MS) || self.books.must_finish(self.now) {
                return false;
            }
            self.past.away_hours += (self.now - before) as f64 / HOUR_MS as f64;
        }
    }

    fn leave(&mut self, id: usize) {
        if let Some(older) = self.old.replace(id) {
            self.tenancy.destroy(self.now, older);
            self.books.look(&self.tenancy, older, self.now);
        }
        self.own = None;
        self.on_disk_h = self.in_bucket_h;
    }

    fn choice(&self, id: usize, waited_ms: Millis) -> Way {
        let rented = &self.tenancy.boxes[id];
        let offers = self.market.offers(self.now);
        let own = offers
            .iter()
            .find(|offer| offer.machine == rented.machine)
            .map(|offer| offer.min_bid_usd_per_hour);
        let elsewhere = self
            .affordable()
            .into_iter()
            .find(|(offer, _)| offer.machine != rented.machine);
        let left_h = self.job.hours - self.on_disk_h;
        let slack_h = self.job.deadline_h - self.now as f64 / HOUR_MS as f64 - left_h;
        let at = Crossroads {
            bid_usd_per_hour: rented.gpu_usd_per_hour(),
            storage_usd_per_hour: rented.storage_usd_per_hour,
            beat_usd_per_hour: own,
            waited_hours: waited_ms as f64 / HOUR_MS as f64,
            headroom: DEFAULT_HEADROOM_BY_PRICE,
            ceiling_usd_per_hour: Some(self.job.max_bid_usd_per_hour),
            elsewhere: elsewhere.map(|(offer, gpu_usd_per_hour)| Elsewhere {
                gpu_usd_per_hour,
                storage_usd_per_hour: offer.storage_usd_per_gb_month * self.job.disk_gb / 720.0,
                // What it fetches is part of the time that a set-up takes here.
                restore: Restore::default(),
            }),
            hours_left: Some(left_h),
            move_hours: match self.brought_up {
                (_, 0) => choosing::MOVE_HOURS,
                (hours, count) => hours / f64::from(count),
            },
            at_risk_hours: self.on_disk_h - self.in_bucket_h,
            slack_hours: (self.strategy == Strategy::Choice).then_some(slack_h),
            left_usd: Some(self.books.free_usd(rented.storage_usd_per_hour, self.now)),
            past: self.past,
        };
        choosing::choose(&at).way()
    }

    /// Lets time pass until something happens to the box, `at_most_ms` are over, or the money may be; seen at the next look. False: the
    /// market's horizon is reached.
    fn pass(&mut self, at_most_ms: Millis) -> bool {
        let until = self.now + at_most_ms.min(self.books.safe_ms(self.now)).max(1);
        let boxes = [self.own, self.old].into_iter().flatten();
        let event = boxes.filter_map(|id| self.tenancy.next_of(id)).min();
        let next = event.map_or(until, |event| event.min(until));
        // What happens is seen at the next look; what we planned ourselves happens on time.
        self.now = match next < until {
            true => (next / LOOK_MS + 1) * LOOK_MS,
            false => until,
        };
        self.tenancy.advance(self.now);
        for id in [self.own, self.old].into_iter().flatten() {
            self.books.look(&self.tenancy, id, self.now);
        }
        assert!(self.tenancy.gpus_charged() <= 1, "never two at once");
        self.now < self.market.horizon_ms
    }
}

fn hours(hours: f64) -> Millis {
    (hours * HOUR_MS as f64).round() as Millis
}
