//! Keeps watch over a run: acts while this process holds its lease, looks on while another one does, and takes over when that
//! one is gone. So any number of `wait`, `up` and `run` may watch one run, and exactly one acts.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    error::CommandError,
    notify,
    run::{
        State,
        lease::Lease,
        lifecycle::{Goal, Lifecycle},
    },
    store::RunRecord,
};

/// Between two looks at the record while somebody else acts: at first, and at most. They grow as long as nothing changes there.
const LOOK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// Carries a run to `goal`, or looks on until it is there.
pub async fn keep(
    lifecycle: &Lifecycle,
    name: &str,
    goal: Goal,
) -> Result<RunRecord, CommandError> {
    let mut told = false;
    let (mut look, mut seen) = (LOOK.0, None);
    loop {
        if let Some(lease) = Lease::take(&lifecycle.store, name)? {
            if std::mem::take(&mut told) && lifecycle.store.run(name)?.outcome.is_none() {
                let text = "The other spotter does not act for this run any more: this one does from now on.";
                lifecycle.report.status(name, text);
            }
            let stop = CancellationToken::new();
            let driven = async {
                let done = lifecycle.drive(name, goal).await;
                stop.cancel();
                done
            };
            tokio::select! {
                (done, ()) = async { tokio::join!(driven, notify::follow(lifecycle, name, &stop)) } => return done,
                // We slept, or the clock jumped: somebody else acts now.
                () = lease.lost() => continue,
            }
        }
        let run = lifecycle.store.run(name)?;
        if reached(lifecycle, &run, goal)? {
            return Ok(run);
        }
        if !told {
            told = true;
            let text = match run.stop_requested && run.outcome.is_none() {
                true => "Another spotter acts for this run, and was told to end it; looking on.",
                false => "Another spotter acts for this run; looking on.",
            };
            lifecycle.report.status(name, text);
        }
        let now = Some(standing(lifecycle, &run)?);
        look = match now == seen {
            true => (look * 5 / 4).min(LOOK.1),
            false => LOOK.0,
        };
        seen = now;
        tokio::time::sleep(look).await;
    }
}

/// What a look shows of whoever acts: the newest attempt, its state, and whether the run was told to end.
fn standing(
    lifecycle: &Lifecycle,
    run: &RunRecord,
) -> Result<(Option<(u32, State)>, bool), CommandError> {
    let attempt = lifecycle.store.latest_attempt(&run.name)?;
    let attempt = attempt.map(|attempt| (attempt.number, attempt.state));
    Ok((attempt, run.stop_requested))
}

/// Nothing is left to do for whoever holds the lease.
fn reached(lifecycle: &Lifecycle, run: &RunRecord, goal: Goal) -> Result<bool, CommandError> {
    let attempts = lifecycle.store.attempts(&run.name)?;
    let settled = run.outcome.is_some() && lifecycle.store.lease(&run.name)?.is_none();
    let running = attempts
        .last()
        .is_some_and(|attempt| attempt.state == State::Running);
    Ok(settled || (goal == Goal::Running && running))
}
