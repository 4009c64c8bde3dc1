//! What ended a training is told with its cause and what to do about it, and stays with the attempt.

use serde_json::json;
use spotter::{
    run::{State, diagnosis},
    store::Outcome,
};

use crate::world::{World, spec};

const RUN: &str = "story";

#[tokio::test(start_paused = true)]
async fn a_crash_is_told_with_its_cause_and_what_to_do() {
    let world = World::new(3, 1_000);
    {
        let mut script = world.boxes.script();
        script.crash_at = Some((25, 1));
        script.diagnosis = Some(json!({
            "class": "cuda_oom", "evidence": "torch.OutOfMemoryError: CUDA out of memory", "line": 26,
            "meaning": "the GPU's memory was full: peak 23.6 of 24.0 GiB", "advice": "lower micro_batch from 8 to 4",
        }));
    }
    world.plan(&spec(RUN));
    let run = world.drive(RUN).await;
    assert_eq!(run.outcome, Some(Outcome::Crashed));
    assert_eq!(
        run.reason.as_deref(),
        Some("the training exited with code 1: the GPU's memory was full: peak 23.6 of 24.0 GiB")
    );
    // Whoever asks how it ended tells it, once.
    assert!(world.was_told("The training exited with code 1."));
    assert!(!world.was_told("the GPU's memory was full"));
    let attempt = &world.attempts(RUN)[0];
    let found = diagnosis::of(&world.store, attempt).unwrap().unwrap();
    assert_eq!((found.class.as_str(), found.line), ("cuda_oom", Some(26)));
    assert_eq!(found.advice, "lower micro_batch from 8 to 4");

    // Started again, it has not been ended by anything yet.
    world.lifecycle().reopen(&run, true).await.unwrap();
    let attempt = &world.attempts(RUN)[0];
    assert_eq!(attempt.state, State::Loading);
    world.boxes.script().crash_at = None;
    let run = world.drive(RUN).await;
    assert_eq!(run.outcome, Some(Outcome::Done));
    assert_eq!(
        diagnosis::of(&world.store, &world.attempts(RUN)[0]).unwrap(),
        None
    );
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_tell_keeps_nobody_waiting_for_long() {
    let world = World::new(3, 1_000);
    world.boxes.script().crash_at = Some((25, 7));
    world.plan(&spec(RUN));
    let run = world.drive(RUN).await;
    assert_eq!(run.outcome, Some(Outcome::Crashed));
    assert_eq!(
        run.reason.as_deref(),
        Some("the training exited with code 7")
    );
}
