//! What the checklist says of a training that does not run any more, as its box and its bucket have it.

use super::*;
use crate::run::ended_alone::{Billing, How, TrainingEnd};

/// A line stands so, with these words in what shows it, and this to type.
#[track_caller]
fn check(facts: &Facts, id: &str, state: Standing, evidence: &str, next: Option<&str>) {
    let lines = lines(facts);
    let line = of(&lines, id);
    assert_eq!(line.state, state, "{line:?}");
    assert!(line.evidence.contains(evidence), "{line:?}");
    if next.is_some() {
        assert_eq!(line.next.as_deref(), next, "{line:?}");
    }
}

/// It ended well, and its last checkpoints are brought to the bucket.
fn finishing() -> Facts {
    let mut facts = training();
    facts.attempts.last_mut().unwrap().state = State::Finishing;
    facts.train = Some(session(10, Some(99), 0));
    facts
}

#[test]
fn a_backup_that_failed_is_wrong_wherever_the_run_stands() {
    let doctor = Some("spotter doctor bucket tiny");
    for (mut facts, words) in [
        (training(), "the backup is behind: late"),
        (finishing(), "the backup failed: late"),
        (done(), "the backup failed: late"),
    ] {
        check(&facts, "backup", Standing::Done, "newest of step 400", None);
        check(&facts, "saved_lately", Standing::Done, "step 400", None);
        facts.saves.alarm = Some("late".to_owned());
        check(&facts, "backup", Standing::Wrong, words, doctor);
        check(&facts, "saved_lately", Standing::Wrong, words, doctor);
    }
}

#[test]
fn what_waits_on_a_box_is_not_called_saved() {
    let waits = |is_there: bool| Some(("`b.pt` is finished".to_owned(), is_there));
    let mut facts = finishing();
    facts.saves.waits = waits(true);
    let on = Some("spotter status tiny");
    check(&facts, "backup", Standing::NotYet, "`b.pt`", on);
    check(&facts, "saved_lately", Standing::NotYet, "`b.pt`", on);
    let mut facts = done();
    facts.outcome = Some(Outcome::Stopped);
    facts.saves.waits = waits(false);
    facts.saves.newest_found = Some((Some(500), 99 * MINUTE_US));
    let again = Some("spotter resume tiny");
    for id in ["backup", "saved_lately", "final_model"] {
        check(&facts, id, Standing::Wrong, "`b.pt`", again);
    }
}

/// It ended with nobody there, as its box told later.
fn ended_alone(how: How, text: &str) -> Facts {
    let mut facts = training();
    (facts.watched, facts.onward) = (false, "spotter up tiny".to_owned());
    facts.ended_alone = Some(TrainingEnd {
        how,
        text: text.to_owned(),
        ended_us: 98 * MINUTE_US,
        billing: Billing::Running,
    });
    facts
}

#[test]
fn a_training_that_ended_with_nobody_there_does_not_train() {
    let up = Some("spotter up tiny");
    let facts = ended_alone(How::Finished, "has ended with exit code 0");
    for id in ["final_model", "results_home", "destroyed"] {
        check(&facts, id, Standing::NotYet, "exit code 0; nobody", up);
    }
    check(&facts, "training", Standing::Done, "exit code 0", None);
    let facts = ended_alone(How::Failed, "was ended by signal 9");
    check(&facts, "final_model", Standing::NotYet, "signal 9", up);
    check(&facts, "training", Standing::Wrong, "still paid for", up);
    let mut facts = facts;
    facts.ended_alone.as_mut().unwrap().billing = Billing::Nothing;
    let last = "nobody has collected it";
    check(&facts, "training", Standing::Wrong, last, up);
    let lines = lines(&facts);
    assert!(of(&lines, "training").evidence.ends_with(last));
}

#[test]
fn the_last_loss_is_not_told_as_that_of_the_last_step() {
    let facts = training();
    let curves = "last loss 2.5000: `spotter top`";
    check(&facts, "curves", Standing::Done, curves, None);
    let read = "step 400 read in its log; last loss 2.5000";
    check(&facts, "logging", Standing::Done, read, None);
}

#[test]
fn gpus_that_mostly_waited_are_not_called_busy() {
    for (percent, standing) in [
        (0.4, Standing::Wrong),
        (11.0, Standing::Wrong),
        (59.4, Standing::Wrong),
        (60.0, Standing::Done),
    ] {
        let words = format!("{percent:.0} % over");
        for facts in [done(), ended_alone(How::Finished, "has ended")] {
            let facts = Facts {
                window: None,
                mean_use_percent: Some(percent),
                ..facts
            };
            check(&facts, "gpu_utilisation", standing, &words, None);
            let brief = Facts {
                is_brief: true,
                ..facts.clone()
            };
            let standing = match standing {
                Standing::Wrong => Standing::Unknown,
                told => told,
            };
            check(&brief, "gpu_utilisation", standing, &words, None);
            let works = match percent < 1.0 && facts.is_over() {
                true => Standing::Wrong,
                false => Standing::Done,
            };
            let lines = lines(&facts);
            let found = of(&lines, "cuda");
            // Before its end one that does nothing may still load.
            let loads = percent < 1.0 && !facts.is_over();
            assert!(found.state == works || loads, "{found:?}");
        }
    }
}

#[test]
fn readings_without_a_use_of_gpus_are_told_as_what_they_are() {
    let mut facts = done();
    facts.window = None;
    facts.reading.as_mut().unwrap().gpus[0].memory_used_bytes = Some(0);
    check(
        &facts,
        "cuda",
        Standing::Unknown,
        "no reading says how busy",
        None,
    );
    // It held memory while it trained, whatever the last reading says.
    facts.memory_bytes = Some(3 << 30);
    check(
        &facts,
        "cuda",
        Standing::Done,
        "3.0 GiB of GPU memory",
        None,
    );
    (facts.memory_bytes, facts.reading) = (None, None);
    check(
        &facts,
        "cuda",
        Standing::Unknown,
        "no reading of its GPUs",
        None,
    );
}
