//! What is told while a box gives no word: nothing that is not known.

use std::time::Duration;

use tokio::time::Instant;

use super::{HEARTBEAT_LATE, Until, Verdict, View, decide, sight};
use crate::{
    run::{
        State,
        halt::Halt,
        lifecycle::Lifecycle,
        silence,
        status::{Meaning, Row, row},
    },
    store::{AttemptRecord, RunRecord},
    ui::text,
};

/// An answer of the provider that is older than this says nothing about now.
const ANSWER_HOLDS: Duration = Duration::from_secs(60);

/// What is made of a box that gives no word (pure). Whoever only looks in judges nothing: that takes minutes in which nobody would wait for him.
/// `by_us`: when it is given up, where the market calls its host silent.
fn what_follows(run: &str, row: Option<Row>, by_us: i64, until: Until) -> String {
    match (row, until) {
        (Some(row), Until::End) if row.meaning == Meaning::HostSilent => format!(
            "The market says that {}: it is given up as lost if no word comes by {}",
            row.text,
            text::time(by_us)
        ),
        (Some(row), Until::Heard) if row.meaning == Meaning::HostSilent => format!(
            "The market says that {}. Whether it is lost is judged by whoever watches, and nobody does after this: `spotter up {run}` \
             gives it up and goes on elsewhere if no word comes for {}",
            row.text,
            text::duration(row.deadline.unwrap_or_default())
        ),
        (Some(row), _) if row.meaning == Meaning::Up => {
            "The market calls it running; whether it trains is not known. Reconnecting".to_owned()
        }
        _ => "Reconnecting".to_owned(),
    }
}

/// What was seen and told of the way to a box.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// It is broken.
    pub(super) lost: bool,
    /// That was told.
    told: bool,
    /// What the provider said of the box when that was told last.
    told_of: Option<Meaning>,
    /// That it is silent was told.
    alarmed: bool,
    /// When the provider answered last.
    pub(super) answered: Option<Instant>,
    /// When the date of a word was written down last.
    kept: Option<Instant>,
}

impl Lifecycle {
    pub(super) fn link_lost(&self, run: &RunRecord, view: &mut View, why: &str) {
        view.link.lost = true;
        // A box that was taken back goes silent a moment before the market says so, and from now on that is asked at every look.
        if view.heard.elapsed() < HEARTBEAT_LATE || decide(&sight(view)) != Verdict::GoOn {
            return;
        }
        let row = view
            .instance
            .flatten()
            .map(|seen| row(State::Running, seen));
        let meaning = row.map(|row| row.meaning);
        let is_news = view.link.told_of != meaning && meaning == Some(Meaning::HostSilent);
        if view.link.told && !is_news {
            return;
        }
        view.link.told = true;
        view.link.told_of = meaning;
        let left = row.and_then(|row| row.deadline).unwrap_or_default();
        let left = left.saturating_sub(view.instance_since.elapsed());
        let by_us = self.clock.now_us().saturating_add(left.as_micros() as i64);
        let known = what_follows(&run.name, row, by_us, view.until);
        let age = view.heard.elapsed().as_secs();
        self.say(
            run,
            &format!("No word from the box for {age} s: {why}. {known}."),
        );
    }

    /// The box answered.
    pub(super) fn link_holds(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        view: &mut View,
    ) -> Result<(), Halt> {
        view.link.lost = false;
        view.link.alarmed = false;
        view.link.told_of = None;
        if std::mem::take(&mut view.link.told) {
            self.say(run, "Connected again.");
        }
        silence::note_heard(&self.store, attempt)?;
        Ok(silence::keep_word(
            &self.store,
            attempt,
            &mut view.link.kept,
        )?)
    }

    /// Silence of a box that its provider calls running is for a person, once it has lasted.
    pub(super) fn judge_silence(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        view: &mut View,
    ) -> Result<(), Halt> {
        let silent = view.heard.elapsed();
        let row = view
            .instance
            .flatten()
            .map(|seen| row(State::Running, seen));
        let runs = row.is_some_and(|row| row.meaning == Meaning::Up);
        let answers = view
            .link
            .answered
            .is_some_and(|at| at.elapsed() <= ANSWER_HOLDS);
        if view.link.alarmed || silent < silence::ALARM_AFTER || !runs || !answers {
            return Ok(());
        }
        view.link.alarmed = true;
        Ok(self.tell_silent(run, attempt, silent)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        provider::{Actual, Intended},
        run::status::Seen,
    };

    #[test]
    fn who_only_looks_in_promises_no_judgement() {
        let of = |actual| {
            let seen = Seen {
                intended: Intended::Running,
                actual,
                scheduling: false,
                is_bid: true,
            };
            Some(row(State::Running, seen))
        };
        let noon_us = 43_200_000_000;
        let check = |row, until, expected: &[&str]| {
            let text = what_follows("tiny", row, noon_us, until);
            assert!(expected.iter().all(|words| text.contains(words)), "{text}");
            let promises = text.contains("it is given up as lost");
            assert_eq!(
                promises,
                until == Until::End && expected.len() > 1,
                "{text}"
            );
        };
        let offline = "its host is offline";
        let noon = text::time(noon_us);
        check(of(Actual::Offline), Until::End, &[offline, noon.as_str()]);
        let judged = ["judged by whoever watches", "`spotter up tiny`", "5 min"];
        check(of(Actual::Offline), Until::Heard, &judged);
        for until in [Until::End, Until::Heard] {
            check(of(Actual::Running), until, &["calls it running"]);
            check(None, until, &["Reconnecting"]);
        }
    }
}
