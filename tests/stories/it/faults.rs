//! Every fault of the simulated market, one after the other: the real client and the real lifecycle over HTTP, on boxes that are scripted.
//! Whatever it is, the run is done, within its budget, and nothing stays rented.

use std::time::Duration;

use serde_json::{Value, json};
use spotter::{
    cli::Verb,
    commands::gc,
    provider::{Provider, RentRequest},
    run::{State, label, lease::Lease, lifecycle::Goal, machines, pricing},
    store::Outcome,
};
use spotter_sim::control::verbs::Verb as Deed;

use crate::world::{Fleet, HttpMarket, World, spec};

const RUN: &str = "story";
const BUDGET_USD: f64 = 5.0;

/// What becomes of the first box.
enum Box1 {
    /// It is given up with these words, its machine is remembered for them, and another one is taken; after so many minutes at most.
    GivenUp(&'static str, i64),
    /// It trains, and people are told this.
    Trains(&'static str),
}

use Box1::{GivenUp, Trains};

/// A fault, until there is a second attempt.
struct Case {
    /// Switches that are turned before anything is rented.
    faults: Value,
    /// What is done to the first box while it is being prepared.
    verb: Option<fn(u64) -> Deed>,
    first: Box1,
    /// Requests that were made to the end.
    sent: &'static [(&'static str, usize)],
}

fn fault(faults: Value, first: Box1, sent: &'static [(&'static str, usize)]) -> Case {
    Case {
        faults,
        verb: None,
        first,
        sent,
    }
}

fn deed(verb: fn(u64) -> Deed, first: Box1) -> Case {
    Case {
        faults: json!({}),
        verb: Some(verb),
        first,
        sent: TWO,
    }
}

/// Orders and ends of a run with one box, and with two.
const ONE: &[(&str, usize)] = &[("PUT /api/v0/asks/", 1), ("DELETE /api/v0/instances/", 1)];
const TWO: &[(&str, usize)] = &[("PUT /api/v0/asks/", 2), ("DELETE /api/v0/instances/", 2)];

/// Boxes that are not what was ordered, do not come up, or say nonsense.
fn boxes() -> Vec<Case> {
    vec![
        // It is not what was ordered.
        fault(
            json!({"wrong_rental": 1}),
            GivenUp("it was rented on-demand, which is not what was ordered", 1),
            TWO,
        ),
        fault(
            json!({"wrong_disk": 1}),
            GivenUp("its disk has 20 GB instead of 40 GB", 1),
            TWO,
        ),
        fault(json!({"wrong_price": 1}), GivenUp("it costs $", 1), TWO),
        // It does not come up.
        fault(
            json!({"pull_failure": "Error response from daemon: failed to create shim task: OCI runtime create failed"}),
            GivenUp("OCI runtime create failed", 2),
            TWO,
        ),
        // What broke off is fetched again, once.
        fault(
            json!({"pull_failure": "failed to register layer: unexpected EOF"}),
            GivenUp("unexpected EOF", 4),
            &[
                ("PUT /api/v0/asks/", 2),
                ("PUT /api/v0/instances/recycle/", 1),
                ("DELETE /api/v0/instances/", 2),
            ],
        ),
        fault(
            json!({"container_ends": 1}),
            GivenUp("its container ended", 3),
            TWO,
        ),
        fault(
            json!({"loading": "forever"}),
            GivenUp("its image had not arrived within", 20),
            TWO,
        ),
        fault(
            json!({"ports_delay_s": 1e6}),
            GivenUp("its ports were not published within 300 s", 7),
            TWO,
        ),
        deed(
            |id| Deed::HostLoss {
                id,
                unnoticed: false,
            },
            GivenUp("its host ", 12),
        ),
        // It comes up stopped: one start mends that.
        fault(
            json!({"starts_stopped": 1}),
            Trains("Attempt 1 trains"),
            &[
                ("PUT /api/v0/asks/", 1),
                ("PUT /api/v0/instances/", 1),
                ("DELETE /api/v0/instances/", 1),
            ],
        ),
        // What it tells of its load is no matter of the run.
        fault(
            json!({"telemetry": "zero"}),
            Trains("Attempt 1 trains"),
            ONE,
        ),
        fault(
            json!({"telemetry": "stale"}),
            Trains("Attempt 1 trains"),
            ONE,
        ),
        fault(
            json!({"telemetry": "unknown"}),
            Trains("Attempt 1 trains"),
            ONE,
        ),
        // Missed heartbeats of its host: it is waited for, and comes up, and trains.
        fault(json!({"status_flaps": 8}), Trains("Attempt 1 trains"), ONE),
    ]
}

/// Answers that are late, lost or wrong.
fn answers() -> Vec<Case> {
    vec![
        // The way to the provider.
        fault(json!({"latency_ms": 4000}), Trains("Attempt 1 trains"), ONE),
        fault(
            json!({"drop_request": 3, "only": "GET /api/v0/instances/"}),
            Trains("Attempt 1 trains"),
            ONE,
        ),
        fault(
            json!({"drop_request": 1, "only": "PUT /api/v0/asks/"}),
            Trains("The answer to the order was lost"),
            &[("PUT /api/v0/asks/", 2), ("DELETE /api/v0/instances/", 1)],
        ),
        fault(
            json!({"lose_create_answer": 1}),
            Trains("by its label"),
            ONE,
        ),
        fault(
            json!({"instances_null": 2}),
            Trains("Attempt 1 trains"),
            ONE,
        ),
        fault(
            json!({"list_deprecated": 3}),
            Trains("Attempt 1 trains"),
            ONE,
        ),
        // Offers that are no more, or cost more.
        fault(
            json!({"offers_gone": 1, "offers_gone_status": 410}),
            Trains("is gone; trying the next one"),
            &[("PUT /api/v0/asks/", 2), ("DELETE /api/v0/instances/", 1)],
        ),
        fault(
            json!({"bids_too_low": 1}),
            Trains("which was made all the same, is destroyed"),
            &[("PUT /api/v0/asks/", 2), ("DELETE /api/v0/instances/", 2)],
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn whatever_box_the_market_gives_the_run_is_done_within_its_budget_and_nothing_stays_rented()
{
    for case in boxes() {
        meet(&case).await;
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_the_market_answers_the_run_is_done_within_its_budget_and_nothing_stays_rented() {
    for case in answers() {
        meet(&case).await;
    }
}

async fn meet(case: &Case) {
    let market = HttpMarket::open().await;
    let world = World::over(market.clone(), 60);
    let what = match case.verb {
        Some(verb) => format!("{:?}", verb(0)),
        None => case.faults.to_string(),
    };
    turn(&market, &case.faults, false).await;
    let mut spec = spec(RUN);
    spec.limits.budget_usd = Some(BUDGET_USD);
    world.plan(&spec);
    let (run, ()) = tokio::join!(
        async {
            let _lease = Lease::take(&world.store, RUN).unwrap().unwrap();
            let lifecycle = world.lifecycle();
            lifecycle.drive(RUN, Goal::End).await
        },
        meddle(&world, &market, case),
    );
    let run = run.unwrap_or_else(|err| panic!("{what}: {err:?}"));
    let told = world.told.0.lock().unwrap().join("\n");
    assert_eq!(run.outcome, Some(Outcome::Done), "{what}\n{told}");
    let attempts = world.attempts(RUN);
    let now_us = world.clock().now_us();
    let remembered = machines::all(&world.store, now_us).unwrap();
    match case.first {
        GivenUp(words, minutes) => {
            assert_eq!(attempts.len(), 2, "{what}\n{told}");
            let first = &attempts[0];
            let said = format!(
                "The box of attempt 1 did not come up: {}",
                first.reason.as_ref().unwrap()
            );
            assert!(
                said.contains(words) && told.contains(&said),
                "{what}: {said}\n{told}"
            );
            assert_eq!(first.state, State::Gone, "{what}");
            let lived_min = (first.gone_us - first.created_us) / 60_000_000;
            assert!(lived_min < minutes, "{what}: it lived {lived_min} min");
            assert_eq!(remembered.len(), 1, "{what}: {remembered:?}");
            assert_eq!(Some(remembered[0].machine_id), first.machine_id, "{what}");
            assert!(
                remembered[0].avoided && remembered[0].reason.contains(words),
                "{remembered:?}"
            );
            assert_ne!(first.machine_id, attempts[1].machine_id, "{what}");
        }
        Trains(words) => {
            assert_eq!(attempts.len(), 1, "{what}\n{told}");
            assert!(told.contains(words), "{what}: {words:?} is not in\n{told}");
            assert_eq!(remembered, [], "{what}");
        }
    }
    assert_eq!(market.alive(), [], "{what}");
    let bill_usd = market.bill_usd();
    assert!(
        bill_usd > 0.0 && bill_usd <= BUDGET_USD,
        "{what}: ${bill_usd}"
    );
    // To the cent, but for what changed between two looks.
    let ours_usd = world.lifecycle().spent_usd(RUN).unwrap();
    assert!(
        (ours_usd - bill_usd).abs() < 0.01,
        "{what}: ours ${ours_usd}, bill ${bill_usd}"
    );
    for (line, times) in case.sent {
        assert_eq!(market.sent(line), *times, "{what}: {line}\n{told}");
    }
    market.close().await;
}

/// What is done to the first box, and the end of the fault when there is a second attempt.
async fn meddle(world: &World<HttpMarket>, market: &HttpMarket, case: &Case) {
    let mut done = false;
    loop {
        tokio::time::sleep(Duration::from_millis(700)).await;
        if world.store.run(RUN).unwrap().outcome.is_some() {
            return;
        }
        let Some(attempt) = world.store.latest_attempt(RUN).unwrap() else {
            continue;
        };
        if attempt.number > 1 {
            return turn(market, &json!({}), true).await;
        }
        if let Some((verb, id)) = case.verb.zip(attempt.instance).filter(|_| !done) {
            done = true;
            market.does(verb(id)).await;
        }
    }
}

async fn turn(market: &HttpMarket, faults: &Value, clear: bool) {
    let verb = Deed::Faults {
        change: Some(faults.clone()),
        clear,
    };
    market.does(verb).await;
}

/// What the account holds is not known: nothing is swept up on such a word, and nothing is called swept.
#[tokio::test(start_paused = true)]
async fn gc_over_a_list_that_is_broken_destroys_nothing_and_says_so() {
    let market = HttpMarket::open().await;
    let world = World::over(market.clone(), 60);
    let query = pricing::query(&spec(RUN).resources, 1);
    let offer = market.offers(&query).await.unwrap().remove(0);
    let order = RentRequest {
        offer: offer.id,
        label: label::label(world.store.id(), RUN, 1, "nonce"),
        image: "image".to_owned(),
        disk_gb: 40.0,
        onstart: String::new(),
        env: Vec::new(),
        bid_usd_per_hour: Some(offer.gpu_usd_per_hour * 1.1),
        container: Default::default(),
    };
    let orphan = market.rent(&order).await.unwrap();
    for (broken, says) in [
        (
            json!({"list_deprecated": 1, "deprecated_status": 410}),
            "deprecated",
        ),
        (
            json!({"list_deprecated": 1, "deprecated_status": 200}),
            "deprecated",
        ),
        (
            json!({"says_no": 1, "only": "GET /api/v1/instances"}),
            "Something went wrong",
        ),
        (
            json!({"server_error": 20, "only": "GET /api/v1/instances"}),
            "502",
        ),
        (
            json!({"server_error": 1, "server_error_status": 404, "only": "GET /api/v1/instances"}),
            "404",
        ),
        (
            json!({"drop_request": 20, "only": "GET /api/v1/instances"}),
            "list instances",
        ),
    ] {
        turn(&market, &broken, true).await;
        let (mut ui, deps, verb, paper) = world.typed(&["spotter", "gc"]);
        let Verb::Gc(args) = &verb else {
            panic!("`gc` is gc");
        };
        let refused = gc::gc(&mut ui, &deps, args).await.unwrap_err();
        let told = format!("{} {}", refused.message(), refused.causes().join(" "));
        assert!(told.contains(says), "{broken}: {told}");
        assert_eq!(market.sent("DELETE /api/v0/instances/"), 0, "{broken}");
        assert!(
            !paper.text().contains("no instances"),
            "{broken}: {}",
            paper.text()
        );
        assert_eq!(market.alive().len(), 1, "{broken}");
    }
    turn(&market, &json!({}), true).await;
    let (mut ui, deps, verb, paper) = world.typed(&["spotter", "gc"]);
    let Verb::Gc(args) = &verb else {
        panic!("`gc` is gc");
    };
    gc::gc(&mut ui, &deps, args).await.unwrap();
    assert!(
        paper.text().contains(&orphan.to_string()),
        "{}",
        paper.text()
    );
    assert_eq!(market.alive(), []);
    market.close().await;
}
