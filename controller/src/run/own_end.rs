//! The end of a run whose box destroyed or stopped itself, taken into the record by whoever looks first: nothing is rented, started or
//! waited for. A watcher needs minutes until it believes that a box is gone; the box's own last word in the bucket and the market's word
//! are two witnesses at once.

use std::time::Duration;

use spotter_bucket::{EndedBy, Ending};

use crate::{
    error::CommandError,
    run::{State, endings::Disk, lifecycle::Lifecycle},
    store::{Outcome, RunRecord},
    ui::text,
};

/// For the box's last word: somebody waits at the keyboard.
const WORD: Duration = Duration::from_secs(20);
/// Results that are fetched in passing: a second or two on most lines.
const LOOK_BYTES: u64 = 16 << 20;

/// What may be done about an end that nobody saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// By somebody who only looks: no large results are fetched for it, and no other box of the run is touched.
    Look,
    /// By somebody who means to go on with the run.
    Act,
}

impl Lifecycle {
    /// Ends a run by what its newest box left in the bucket; true: it has ended. `disk`: what the market says became of the box, which it
    /// was asked just now. The caller holds the run's lease.
    ///
    /// # Errors
    /// When the record, the market or the bucket stands in the way; then the run goes on as it was.
    pub(crate) async fn take_end(
        &self,
        run: &RunRecord,
        disk: Disk,
        reach: Reach,
    ) -> Result<bool, CommandError> {
        let latest = self.store.latest_attempt(&run.name)?;
        let Some(mut attempt) = latest.filter(|latest| latest.state == State::Running) else {
            return Ok(false);
        };
        if run.outcome.is_some() || run.stop_requested {
            return Ok(false);
        }
        let word = self.sites.left_ending(&run.spec, attempt.number);
        let ending = match tokio::time::timeout(WORD, word).await {
            Ok(Ok(Some(ending))) => ending,
            Ok(Ok(None)) => return Ok(false),
            Ok(Err(err)) => {
                tracing::debug!(%err, "the bucket does not say whether the training had ended");
                return Ok(false);
            }
            Err(_) => return Ok(false),
        };
        let results_bytes = match &ending.results {
            Some(key) if ending.destroys => self.left_results_bytes(run, key).await,
            _ => Some(0),
        };
        if !ends_at_once(&ending, disk, reach, results_bytes) {
            if let Some(bytes) = results_bytes.filter(|bytes| *bytes > LOOK_BYTES) {
                let text = format!(
                    "Its box destroyed itself; {} of results wait in the bucket, and come here with `spotter up {}`.",
                    text::bytes(bytes),
                    run.name
                );
                self.say(run, &text);
            }
            return Ok(false);
        }
        let ended = self.had_ended(run, &mut attempt, disk).await;
        if !ended.map_err(|halt| halt.into_error(&run.name))? {
            return Ok(false);
        }
        if attempt.state == State::Collected {
            self.end(run, Outcome::Done, None)?;
        }
        let run = self.store.run(&run.name)?;
        if run.outcome.is_none() {
            return Ok(false);
        }
        self.observe(&run);
        if disk == Disk::Lost {
            let settled = match reach {
                Reach::Look => self.settle_newest(&run).await,
                Reach::Act => self.settle(&run, None).await,
            };
            settled.map_err(|halt| halt.into_error(&run.name))?;
        }
        Ok(true)
    }
}

/// Whether the end can be written down as it is, without a box (pure). `results_bytes`: what is fetched from the bucket for that; `None`:
/// the bucket does not tell.
fn ends_at_once(ending: &Ending, disk: Disk, reach: Reach, results_bytes: Option<u64>) -> bool {
    let ended_well = ending.by == EndedBy::Exit && ending.exit_code == Some(0);
    match (disk, reach) {
        (Disk::Lost, Reach::Act) => ending.destroys,
        (Disk::Lost, Reach::Look) => {
            ending.destroys && results_bytes.is_some_and(|bytes| bytes <= LOOK_BYTES)
        }
        // What a training that ended well left on the disk is fetched by starting the box again.
        (Disk::Kept, Reach::Act) => !ending.destroys && !ended_well,
        // What becomes of a disk is decided by whoever acts for the run.
        (Disk::Kept, Reach::Look) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_taken_at_once_where_the_box_is_gone_by_its_own_word_and_nothing_is_to_be_fetched()
    {
        use Disk::{Kept, Lost};
        use Reach::{Act, Look};
        let check = |destroys: bool, exit_code: i32, bytes: Option<u64>, expected: &[_]| {
            let mut ending = Ending::new(1, 2, EndedBy::Exit);
            (ending.destroys, ending.exit_code) = (destroys, Some(exit_code));
            for case in [(Lost, Look), (Lost, Act), (Kept, Look), (Kept, Act)] {
                let found = ends_at_once(&ending, case.0, case.1, bytes);
                assert_eq!(found, expected.contains(&case), "{ending:?} {case:?}");
            }
        };
        check(true, 0, Some(LOOK_BYTES), &[(Lost, Look), (Lost, Act)]);
        check(true, 0, Some(LOOK_BYTES + 1), &[(Lost, Act)]);
        check(true, 0, None, &[(Lost, Act)]);
        // It stopped, and something else took it away: what it held is lost, which a watcher says after minutes.
        check(false, 0, Some(0), &[]);
        check(false, 7, Some(0), &[(Kept, Act)]);
    }
}
