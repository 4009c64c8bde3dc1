//! Lines that are neither done nor wrong, and what stands for a fact that is not there.

use super::*;

#[test]
fn what_cannot_be_known_is_not_called_done() {
    let mut facts = training();
    facts.spec.smoke = None;
    facts.spec.setup = Some("pip install torch".to_owned());
    facts.step = None;
    facts.spec.needs = vec!["flash-attn2".parse().unwrap()];
    assert_eq!(
        standing(&facts, Standing::Unknown),
        ["code_tested", "data_validated", "search", "flash_attention"]
    );
}

#[test]
fn what_a_run_has_no_use_for_does_not_apply() {
    let mut facts = done();
    facts.spec.workdir = None;
    facts.spec.setup = None;
    facts.spec.results = None;
    facts.listing = None;
    facts.attempts[0].instance = Some(1_000_000_000_001);
    assert_eq!(
        standing(&facts, Standing::DoesNotApply),
        [
            "dependencies",
            "search",
            "rental",
            "code",
            "setup",
            "flash_attention",
            "tensorboard",
            "results_home",
            "destroyed",
            "budget",
            "bill",
        ]
    );
}

#[test]
fn a_box_that_is_kept_as_ordered_is_still_to_be_destroyed_and_is_not_wrong() {
    let mut facts = done();
    facts.spec.on_done = OnDone::Stop;
    facts.attempts[0].state = State::Collected;
    facts.attempts[0].gone_us = 0;
    let lines = lines(&facts);
    let line = of(&lines, "destroyed");
    assert_eq!(line.state, Standing::NotYet);
    assert_eq!(line.next.as_deref(), Some("spotter destroy tiny"));
}

#[test]
fn what_was_copied_of_an_ended_run_stands_for_what_no_window_told() {
    let mut facts = done();
    facts.window = None;
    for (percent, standing) in [(87.4, Standing::Done), (0.2, Standing::Wrong)] {
        facts.mean_use_percent = Some(percent);
        let lines = lines(&facts);
        assert_eq!(of(&lines, "gpu_utilisation").state, standing, "{percent}");
        assert_eq!(of(&lines, "cuda").state, standing, "{percent}");
    }
    // While it trains, a window is to tell.
    facts.outcome = None;
    assert_eq!(
        of(&lines(&facts), "gpu_utilisation").state,
        Standing::NotYet
    );
}

#[test]
fn a_log_of_which_there_is_no_copy_is_not_called_empty() {
    let mut facts = done();
    facts.step = None;
    assert_eq!(of(&lines(&facts), "logging").state, Standing::Wrong);
    facts.log = None;
    assert_eq!(of(&lines(&facts), "logging").state, Standing::Unknown);
}
