//! What a training's log shows over its steps: losses and speeds, bounded (pure).

use std::collections::BTreeMap;

use spotter_trainlog::{Record, Seen, SeenKind};

/// Points that are kept: more than any screen has columns. Beyond that every second one goes.
const MAX_POINTS: usize = 4096;

/// What was printed at one step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Point {
    /// Which attempt printed it.
    life: u32,
    loss: Option<f64>,
    tokens_per_s: Option<f64>,
    samples_per_s: Option<f64>,
    step_time_s: Option<f64>,
}

/// Losses and speeds by step, over all attempts. A step that was trained again counts as it was the last time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Curve {
    points: BTreeMap<u64, Point>,
    /// The position that was printed last; lines without one belong to it.
    at: Option<u64>,
    /// The log prints positions.
    counts: bool,
    /// Steps of epochs before this one, where the counter begins anew with each.
    before: u64,
    life: u32,
    /// Steps in all, as they were printed last.
    total: Option<u64>,
    /// The last loss that was printed was not a number.
    broken: bool,
}

/// Values over steps.
pub type Points = Vec<(f64, f64)>;

impl Curve {
    /// Another attempt's log begins.
    pub fn begin(&mut self, life: u32) {
        if self.life != life {
            (self.life, self.at, self.counts, self.before) = (life, None, false, 0);
        }
    }

    /// Takes what a line showed.
    pub fn see(&mut self, seen: &Seen) {
        if !seen.repeated && seen.kind != SeenKind::Evaluation {
            self.add(&seen.record);
        }
    }

    fn add(&mut self, record: &Record) {
        if let Some(step) = record.step.and_then(|step| step.whole()) {
            self.counts = true;
            self.move_to(step);
        }
        let total = record.total_steps.and_then(|total| total.whole());
        self.total = total.or(self.total);
        let point = Point {
            life: self.life,
            loss: record.loss.map(|loss| loss.value),
            tokens_per_s: record.tokens_per_s,
            samples_per_s: record.samples_per_s,
            step_time_s: record.step_time_s,
        };
        if point.loss.is_none() && point.speeds().iter().all(|(_, speed)| speed.is_none()) {
            return;
        }
        if let Some(loss) = point.loss {
            self.broken = !loss.is_finite();
        }
        // A log that counts nothing is counted.
        let at = match (self.at, self.counts) {
            (Some(at), true) => at,
            (at, _) => at.unwrap_or(0) + 1,
        };
        self.at = Some(at);
        let step = self.before.saturating_add(at);
        // A new attempt trains anew what the one before it lost.
        let newest = self.points.last_key_value();
        if newest.is_some_and(|(_, newest)| newest.life < self.life) {
            self.points.split_off(&step);
        }
        let known = self.points.entry(step).or_default();
        *known = match known.life == self.life {
            true => point.or(known),
            false => point,
        };
        if self.points.len() > MAX_POINTS {
            let mut keep = false;
            self.points.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
    }

    /// A counter that falls far back begins a new epoch; one that falls back a little repeats steps.
    fn move_to(&mut self, step: u64) {
        let at = self.at.replace(step).unwrap_or(step);
        if step < at {
            if step <= at / 2 {
                self.before = self.before.saturating_add(at);
            } else {
                self.points.split_off(&self.before.saturating_add(step));
            }
        }
    }

    /// Finite losses over steps.
    pub fn loss(&self) -> Points {
        self.values(|point| point.loss)
    }

    /// Steps in all; `None`: nobody says, or the counter begins anew with each epoch.
    pub fn total(&self) -> Option<u64> {
        self.total.filter(|_| self.before == 0)
    }

    /// Whether the loss is not a number any more.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// The speed that says most, with its unit.
    pub fn speed(&self) -> Option<(&'static str, Points)> {
        (0..3).find_map(|which| {
            let values = self.values(|point| point.speeds()[which].1);
            (!values.is_empty()).then(|| (Point::default().speeds()[which].0, values))
        })
    }

    fn values(&self, of: impl Fn(&Point) -> Option<f64>) -> Points {
        let points = self.points.iter();
        points
            .filter_map(|(step, point)| Some((*step as f64, of(point).filter(|v| v.is_finite())?)))
            .collect()
    }
}

impl Point {
    fn speeds(&self) -> [(&'static str, Option<f64>); 3] {
        let steps = self.step_time_s.filter(|seconds| *seconds > 0.0);
        [
            ("tokens/s", self.tokens_per_s),
            ("samples/s", self.samples_per_s),
            ("steps/s", steps.map(f64::recip)),
        ]
    }

    /// What another line said of the same step where this one says nothing.
    fn or(self, older: &Self) -> Self {
        Self {
            life: self.life,
            loss: self.loss.or(older.loss),
            tokens_per_s: self.tokens_per_s.or(older.tokens_per_s),
            samples_per_s: self.samples_per_s.or(older.samples_per_s),
            step_time_s: self.step_time_s.or(older.step_time_s),
        }
    }
}

#[cfg(test)]
mod tests {
    use spotter_trainlog::Reader;

    use super::*;

    fn read(curve: &mut Curve, life: u32, text: &str) {
        curve.begin(life);
        let mut reader = Reader::default();
        reader.feed(text.as_bytes(), &mut |seen| curve.see(seen));
        reader.end(&mut |seen| curve.see(seen));
    }

    fn line(step: u64, loss: f64) -> String {
        format!("step {step}/40 | loss {loss} | lr 1.00e-03 | 100.0 ms/step | 1,000 tok/s\n")
    }

    #[test]
    fn losses_and_the_speed_that_says_most_stand_over_their_steps() {
        let mut curve = Curve::default();
        read(&mut curve, 1, &(line(1, 9.5) + "chatter\n" + &line(2, 8.5)));
        assert_eq!(curve.loss(), [(1.0, 9.5), (2.0, 8.5)]);
        let speed = curve.speed();
        assert_eq!(
            speed,
            Some(("tokens/s", vec![(1.0, 1000.0), (2.0, 1000.0)]))
        );
        assert_eq!(Curve::default().speed(), None);
    }

    #[test]
    fn what_an_attempt_lost_is_shown_as_the_next_one_trains_it() {
        let mut curve = Curve::default();
        let steps = |from: u64, to: u64, loss: f64| {
            (from..=to).map(|step| line(step, loss)).collect::<String>()
        };
        read(&mut curve, 1, &steps(1, 37, 9.0));
        read(&mut curve, 2, &steps(31, 33, 5.0));
        let found = curve.loss();
        assert_eq!(found.len(), 33);
        assert_eq!((found[29], found[30]), ((30.0, 9.0), (31.0, 5.0)));
    }

    #[test]
    fn a_counter_that_begins_anew_with_each_epoch_goes_on() {
        let mut curve = Curve::default();
        let epoch = |loss: f64| (1..=4).map(|step| line(step, loss)).collect::<String>();
        read(&mut curve, 1, &(epoch(9.0) + &epoch(5.0)));
        let steps: Vec<f64> = curve.loss().iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    }

    #[test]
    fn a_long_run_keeps_its_shape_in_bounded_memory() {
        let mut curve = Curve::default();
        let text: String = (1..=20_000).map(|step| line(step, 1.0)).collect();
        read(&mut curve, 1, &text);
        let found = curve.loss();
        assert!(found.len() <= MAX_POINTS && found.len() > MAX_POINTS / 4);
        assert!(found[0].0 <= 10.0 && found[found.len() - 1].0 > 19_990.0);
    }

    #[test]
    fn a_loss_that_is_no_number_is_no_point_and_is_told() {
        let mut curve = Curve::default();
        read(
            &mut curve,
            1,
            "step 1/40 | loss 2.0 | lr 1e-3\nstep 2/40 | loss nan | lr 1e-3\n",
        );
        assert_eq!(curve.loss(), [(1.0, 2.0)]);
        assert!(curve.is_broken());
    }
}
