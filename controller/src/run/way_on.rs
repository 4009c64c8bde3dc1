//! What [`choosing`] has to know of a run whose box was taken back, read from the record and the market, and what its choice leads to.

use std::time::Duration;

use serde_json::json;

use crate::{
    error::CommandError,
    ledger::CostKind,
    provider::Rental,
    run::{
        alarms, bandwidth, budget,
        choosing::{self, Choice, Crossroads, Elsewhere, Past, Restore, Way},
        halt::Halt,
        judge,
        known::Known,
        lifecycle::Lifecycle,
        marks,
        offering::{OFFERS_LISTED, asked},
        past,
        planned::Bar,
        prediction,
        recovery::{self, GiveUp, Move, Patience, Presence, Wait},
        searching, to_come, windows,
    },
    store::{AttemptRecord, EventRecord, RunRecord, Store, StoreError},
};

/// Event of a box: a checkpoint is in the bucket.
const COMMITTED: &str = "checkpoint.committed";
/// Event of a choice.
const CHOSEN: &str = "way_chosen";
/// A box that a bid won is seen to come back within this.
const BID_SHOWS: Duration = Duration::from_secs(120);
/// Between two choices while a box is waited for: prices move by the hour, and each choice is a search.
const CHOOSE_EVERY_US: i64 = 5 * 60 * 1_000_000;

/// Why an attempt goes on as it does; `None`: nothing was chosen.
pub(crate) fn why(store: &Store, run: &str, attempt: u32) -> Result<Option<String>, StoreError> {
    let chosen = store.newest_event(run, attempt, CHOSEN)?;
    Ok(chosen.and_then(|event| event.detail["text"].as_str().map(str::to_owned)))
}

/// How a run went on after its newest interruption, by price, in one line; `None`: nothing was chosen.
pub(crate) fn newest(store: &Store, run: &str) -> Result<Option<String>, StoreError> {
    for attempt in store.attempts(run)?.iter().rev() {
        if let Some(why) = why(store, run, attempt.number)? {
            return Ok(Some(format!("attempt {} {why}", attempt.number)));
        }
    }
    Ok(None)
}

impl Lifecycle {
    /// After an interruption: to wait for the box, or to leave it.
    pub(crate) async fn choose_move(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
    ) -> Result<Move, Halt> {
        let choice = self.choose_way(run, attempt, Duration::ZERO).await?;
        let newest = self.store.newest_event(&run.name, attempt.number, CHOSEN)?;
        let told = newest.is_some_and(|event| {
            event.time_us >= attempt.state_us && event.detail["way"] == choice.way().name()
        });
        if !told {
            self.tell_way(run, attempt, &choice)?;
        }
        Ok(match choice.way() {
            // The bid is raised by whoever waits, at the next look.
            Way::Wait | Way::Bid(_) => Move::Here,
            Way::Move => Move::Elsewhere,
        })
    }

    /// While its box is away: the same again, every few minutes. `before` is what is done without a look at prices.
    pub(crate) async fn priced_patience(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        wait: &Wait,
        before: Patience,
    ) -> Result<Patience, Halt> {
        let overdue = matches!(
            before,
            Patience::GiveUp(GiveUp::Waited { .. } | GiveUp::HeldBack(_))
        );
        let now_us = self.clock.now_us();
        // What is left of the budget is not spent on waiting: that is decided at once, but for a bid that was just made.
        let no_money = matches!(before, Patience::GiveUp(GiveUp::HeldBack(_)))
            && wait.since_bid.is_none_or(|since| since >= BID_SHOWS);
        let due = no_money || self.looks.choice_is_due(&run.name, now_us, CHOOSE_EVERY_US);
        if wait.presence != Presence::Away || !due {
            return Ok(Patience::Wait);
        }
        let since = wait
            .since_bid
            .map_or(wait.waited, |bid| bid.min(wait.waited));
        let mut choice = self.choose_way(run, attempt, since).await?;
        // Nobody waits longer than the run file or its budget allows where there is another way, and nobody gives up for that. Where there
        // is none, its place in the market's queue is all that the run has, as long as there is money for that.
        if overdue && choice.ways.len() > 1 {
            choice.ways.retain(|way| way.way != Way::Wait);
        } else if let Patience::GiveUp(GiveUp::HeldBack(_)) = before {
            return Ok(before);
        }
        let told = self
            .store
            .newest_event(&run.name, attempt.number, CHOSEN)?
            .is_some_and(|event| event.detail["way"] == choice.way().name());
        if choice.way() != Way::Wait || !told {
            self.tell_way(run, attempt, &choice)?;
        }
        Ok(match choice.way() {
            Way::Wait => Patience::Wait,
            Way::Bid(usd_per_hour) => Patience::Bid(usd_per_hour),
            Way::Move => Patience::Leave,
        })
    }

    fn tell_way(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        choice: &Choice,
    ) -> Result<(), CommandError> {
        let text = choice.to_string();
        self.say(run, &format!("`{}` {text}.", run.name));
        let ways: Vec<serde_json::Value> = choice
            .ways
            .iter()
            .map(|way| {
                json!({
                    "way": way.way.name(), "usd": way.usd, "usd_per_hour": way.usd_per_hour, "delay_hours": way.delay_hours,
                    "delay_usd": way.delay_usd, "restore_hours": way.restore.map(|restore| restore.hours()),
                })
            })
            .collect();
        let detail = json!({
            "way": choice.way().name(), "text": text, "hours": choice.hours, "easy_hours": choice.easy_hours, "ways": ways,
        });
        self.note(run, attempt.number, CHOSEN, detail)
    }

    /// Looks at the market and at the record, and chooses. `waited`: since the box was taken, or since the bid for it was raised.
    async fn choose_way(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        waited: Duration,
    ) -> Result<Choice, Halt> {
        let resources = &run.spec.resources;
        let provider = self.provider.as_ref();
        let offers = searching::for_run(provider, &run.spec, OFFERS_LISTED, true).await?;
        let own = |machine: u64| attempt.machine_id == Some(machine);
        let beat_usd_per_hour = offers
            .iter()
            .find(|offer| own(offer.machine_id))
            .filter(|_| attempt.rental == Rental::Interruptible)
            .and_then(|offer| offer.min_bid_usd_per_hour);
        let spent_usd = self.spent_usd(&run.name)?;
        let left_usd = run.spec.limits.budget_usd.map(|budget| budget - spent_usd);
        let failed = self.machines_that_failed(run, attempt)?;
        let known = Known::read(&self.store, &run.spec, self.clock.now_us())?;
        let others = offers
            .iter()
            .filter(|offer| !own(offer.machine_id) && !failed.contains(&offer.machine_id));
        let verdicts = judge::judge(
            &asked(&run.spec, &known, left_usd, self.going_on(run)?),
            others,
        );
        let newest_bytes = self.newest_checkpoint_bytes(&run.name)?;
        // One that is avoided is taken where there is nothing else, and nobody leaves his box for it.
        let best = verdicts
            .best(Bar::dared(self.dares(run)?))
            .filter(|judged| judged.avoided.is_none());
        let measured_mbps = match best {
            Some(judged) => bandwidth::of_machine(&self.store, judged.offer.machine_id)?,
            None => None,
        };
        let elsewhere = best.map(|judged| Elsewhere {
            gpu_usd_per_hour: judged.order.gpu_usd_per_hour,
            storage_usd_per_hour: judged.order.storage_usd_per_hour,
            restore: Restore::new(newest_bytes, judged.offer.inet_down_mbps, measured_mbps),
        });
        let hours_left = self.hours_left(run, attempt)?;
        let held_usd = run.spec.limits.purse().map_or(0.0, |purse| {
            budget::held_back_usd(purse, attempt.storage_usd_per_hour)
        });
        let at = Crossroads {
            bid_usd_per_hour: attempt.gpu_usd_per_hour,
            storage_usd_per_hour: attempt.storage_usd_per_hour,
            beat_usd_per_hour,
            waited_hours: waited.as_secs_f64() / 3600.0,
            headroom: resources.bid_headroom,
            ceiling_usd_per_hour: recovery::ceiling(resources, attempt.storage_usd_per_hour),
            elsewhere,
            hours_left,
            slack_hours: self.slack_hours(run, hours_left),
            move_hours: self.move_hours(run)?,
            at_risk_hours: self.at_risk_hours(run, attempt)?,
            left_usd: left_usd.map(|left_usd| left_usd - held_usd),
            past: self.market_past()?,
        };
        Ok(choosing::choose(&at))
    }

    /// Hours that may pass without training until the result is later than the run file wants it; `None`: it does not say, or nothing tells
    /// how much is to come.
    fn slack_hours(&self, run: &RunRecord, hours_left: Option<f64>) -> Option<f64> {
        let wanted_h = run.spec.recover.deadline?.as_secs_f64() / 3600.0;
        let passed_us = self.clock.now_us().saturating_sub(run.created_us).max(0);
        Some(wanted_h - passed_us as f64 / 3.6e9 - hours_left?)
    }

    /// Hours of training to come; `None`: nothing tells.
    fn hours_left(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
    ) -> Result<Option<f64>, StoreError> {
        let known = self.store.observations()?;
        let predicted =
            prediction::prediction(&run.spec, &attempt.gpu, &past::of(&run.spec, &known));
        let window = windows::newest(&self.store, attempt)?;
        let step = attempt.last_step.or(attempt.resumed_step);
        let model = run.spec.model.as_ref();
        let told = to_come::to_come(model, window.as_ref(), &predicted, step, 0.0);
        let by_limit = self.runtime_left(run, attempt.number + 1);
        let by_limit = by_limit.map(|left| left.as_secs_f64() / 3600.0);
        Ok(match (told.map(|rest| rest.hours.base), by_limit) {
            (Some(told), Some(limit)) => Some(told.min(limit)),
            (told, limit) => told.or(limit),
        })
    }

    /// Size of the newest checkpoint in the bucket, as its box told; 0: none was told of.
    pub(super) fn newest_checkpoint_bytes(&self, run: &str) -> Result<u64, StoreError> {
        let events = self.store.events(run, 0)?;
        let committed = events.iter().filter(|event| event.kind == COMMITTED);
        let newest = committed.max_by_key(|event| marks::written(event));
        Ok(newest
            .and_then(|event| event.detail["size_bytes"].as_u64())
            .unwrap_or(0))
    }

    /// How long this run's boxes took from their order to their training, on average, without what they fetched of a checkpoint.
    fn move_hours(&self, run: &RunRecord) -> Result<f64, StoreError> {
        let attempts = self.store.attempts(&run.name)?;
        let events = self.store.events(&run.name, 0)?;
        let restored_s = |attempt: u32| -> f64 {
            let of = |event: &&EventRecord| event.kind == "restored" && event.attempt == attempt;
            let restores = events.iter().filter(of);
            restores
                .filter_map(|event| event.detail["seconds"].as_f64())
                .sum()
        };
        // What came back, or was started again, was not ordered then.
        let taken: Vec<f64> = attempts
            .iter()
            .filter(|attempt| attempt.started_us > 0 && attempt.reopened_us == 0)
            .map(|attempt| {
                let all_s = (attempt.started_us - attempt.created_us).max(0) as f64 / 1e6;
                (all_s - restored_s(attempt.number)).max(0.0) / 3600.0
            })
            .collect();
        Ok(match taken.len() {
            0 => choosing::MOVE_HOURS,
            count => taken.iter().sum::<f64>() / count as f64,
        })
    }

    /// Training that only the box's disk has.
    fn at_risk_hours(&self, run: &RunRecord, attempt: &AttemptRecord) -> Result<f64, StoreError> {
        let unsaved = alarms::unsaved(&self.store, &run.name, attempt.number)?;
        let every = run.spec.checkpoints.as_ref().map(|keys| keys.every);
        // Each is about as much training as lies between two backups.
        Ok(every.map_or(0.0, |every| {
            unsaved.len() as f64 * every.as_secs_f64() / 3600.0
        }))
    }

    /// What the market did to interruptible boxes of all runs of this store.
    fn market_past(&self) -> Result<Past, StoreError> {
        let now_us = self.clock.now_us();
        let mut past = Past::default();
        for run in self.store.runs()? {
            let attempts = self.store.attempts(&run.name)?;
            let bids: Vec<u32> = attempts
                .iter()
                .filter(|attempt| attempt.rental == Rental::Interruptible)
                .map(|attempt| attempt.number)
                .collect();
            if bids.is_empty() {
                continue;
            }
            past.hours += self
                .store
                .intervals(&run.name)?
                .iter()
                .filter(|known| known.kind == CostKind::Gpu && bids.contains(&known.attempt))
                .map(|known| {
                    let to_us = known.to_us.unwrap_or(now_us);
                    to_us.saturating_sub(known.from_us).max(0) as f64 / 3.6e9
                })
                .sum::<f64>();
            let mut waits_since_us = None;
            for event in self.store.events(&run.name, 0)? {
                if !bids.contains(&event.attempt) {
                    continue;
                }
                match event.kind.as_str() {
                    "interrupted" => past.interruptions += 1,
                    "waiting" => waits_since_us = Some(event.time_us),
                    "reopened" | "ended" | "box_destroyed" | CHOSEN => {
                        // A choice ends a wait where it leaves the box.
                        if event.kind == CHOSEN && event.detail["way"] != Way::Move.name() {
                            continue;
                        }
                        if let Some(since_us) = waits_since_us.take() {
                            past.away_hours += away_hours(since_us, event.time_us);
                            past.returns += u32::from(event.detail["back"] == true);
                        }
                    }
                    _ => {}
                }
            }
            if let Some(since_us) = waits_since_us {
                past.away_hours += away_hours(since_us, now_us);
            }
        }
        Ok(past)
    }
}

fn away_hours(since_us: i64, until_us: i64) -> f64 {
    until_us.saturating_sub(since_us).max(0) as f64 / 3.6e9
}
