//! What is told while a box gives no word: nothing that is not known.

use std::time::Duration;

use tokio::time::Instant;

use super::{HEARTBEAT_LATE, Verdict, View, decide, sight};
use crate::{
    run::{
        State,
        halt::Halt,
        lifecycle::Lifecycle,
        silence,
        status::{Meaning, row},
    },
    store::{AttemptRecord, RunRecord},
    ui::text,
};

/// An answer of the provider that is older than this says nothing about now.
const ANSWER_HOLDS: Duration = Duration::from_secs(60);

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
        let known = match row {
            Some(row) if row.meaning == Meaning::HostSilent => {
                let left = row.deadline.unwrap_or_default();
                let left = left.saturating_sub(view.instance_since.elapsed());
                let by_us = self.clock.now_us().saturating_add(left.as_micros() as i64);
                format!(
                    "The market says that {}: it is given up as lost if no word comes by {}",
                    row.text,
                    text::time(by_us)
                )
            }
            Some(row) if row.meaning == Meaning::Up => {
                "The market calls it running; whether it trains is not known. Reconnecting"
                    .to_owned()
            }
            _ => "Reconnecting".to_owned(),
        };
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
