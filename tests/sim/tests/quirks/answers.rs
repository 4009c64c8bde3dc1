//! Answers that mislead: lists that are none, answers that are lost, refusals in every form, pages, rates.

use std::time::Instant;

use serde_json::{Value, json};
use spotter::provider::{Provider, ProviderError, Rental};

use crate::{asked, cheapest, client, client_with, order, sent, support::Sim};

#[tokio::test]
async fn a_list_that_was_switched_off_is_an_error_and_never_an_empty_fleet() {
    let sim = Sim::open().await;
    sim.running(None).await;
    for status in [410, 200] {
        sim.sim(
            "faults",
            json!({"list_deprecated": 1, "deprecated_status": status}),
        )
        .await;
        let answer = client(&sim).instances().await;
        assert!(
            matches!(&answer, Err(ProviderError::Refused { message, .. }) if message.contains("deprecated")),
            "{status}: {answer:?}"
        );
    }
    assert_eq!(client(&sim).instances().await.unwrap().len(), 1);
    sim.close().await;
}

#[tokio::test]
async fn a_create_whose_answer_is_lost_is_sent_once_and_found_by_its_label() {
    let sim = Sim::open().await;
    let vast = client(&sim);
    let offer = cheapest(&vast).await;
    sim.sim("faults", json!({"lose_create_answer": 1})).await;
    let answer = vast.rent(&order(offer.id, "ours/1", None)).await;
    assert!(
        answer.as_ref().is_err_and(ProviderError::is_ambiguous),
        "{answer:?}"
    );
    assert_eq!(sent(&sim, "PUT /api/v0/asks/"), 1);
    let found = vast.instances().await.unwrap();
    assert_eq!(found[0].label.as_deref(), Some("ours/1"));
    sim.close().await;
}

#[tokio::test]
async fn a_create_that_a_gateway_answered_is_not_sent_again_and_a_refusal_by_rate_is() {
    let sim = Sim::open().await;
    let vast = client(&sim);
    let offer = cheapest(&vast).await;
    for body in ["html", "text", "json"] {
        let fault =
            json!({"server_error": 1, "server_error_body": body, "only": "PUT /api/v0/asks/"});
        sim.sim("faults", fault).await;
        let before = sent(&sim, "PUT /api/v0/asks/");
        // A client of its own, so that no test waits for the route's interval.
        let answer = client(&sim).rent(&order(offer.id, "ours/2", None)).await;
        assert!(
            answer.as_ref().is_err_and(ProviderError::is_ambiguous),
            "{answer:?}"
        );
        assert_eq!(sent(&sim, "PUT /api/v0/asks/"), before + 1);
    }
    let limited = json!({"too_many_requests": 1, "retry_after_s": 1, "only": "PUT /api/v0/asks/"});
    sim.sim("faults", limited).await;
    let started = Instant::now();
    client(&sim)
        .rent(&order(offer.id, "ours/3", None))
        .await
        .unwrap();
    assert!(
        started.elapsed().as_secs_f64() >= 1.0,
        "it waits as it was told"
    );
    sim.close().await;
}

#[tokio::test]
async fn an_instance_that_is_null_is_gone_and_a_refused_key_is_not() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    sim.sim("faults", json!({"instances_null": 1})).await;
    assert_eq!(client(&sim).instance(id).await.unwrap(), None);
    let wrong = client_with(&sim, "wrong");
    // The answer is 404, as for an instance that does not exist.
    assert!(matches!(
        wrong.instance(id).await,
        Err(ProviderError::Unauthorized { .. })
    ));
    assert!(matches!(
        wrong.destroy(id).await,
        Err(ProviderError::Unauthorized { .. })
    ));
    assert!(matches!(
        wrong.stop(id).await,
        Err(ProviderError::Unauthorized { .. })
    ));
    let gone = client(&sim);
    gone.destroy(id).await.unwrap();
    client(&sim).destroy(id).await.unwrap();
    sim.close().await;
}

#[tokio::test]
async fn a_404_that_names_no_instance_says_nothing_about_one() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    let vast = client(&sim);
    for (body, key_is_over) in [("html", false), ("text", false), ("session_expired", true)] {
        let broken = async || {
            let switch =
                json!({"server_error": 1, "server_error_status": 404, "server_error_body": body});
            sim.sim("faults", switch).await;
        };
        let is_told = |result: Result<(), ProviderError>| match key_is_over {
            true => matches!(result, Err(ProviderError::Unauthorized { .. })),
            false => matches!(result, Err(ProviderError::Unreachable { .. })),
        };
        broken().await;
        assert!(is_told(vast.instance(id).await.map(drop)), "{body}");
        broken().await;
        assert!(is_told(vast.stop(id).await), "{body}");
        broken().await;
        assert!(is_told(vast.destroy(id).await), "{body}");
        let there = vast.instance(id).await.unwrap();
        assert!(there.is_some_and(|there| there.contract_running), "{body}");
    }
    sim.close().await;
}

#[tokio::test]
async fn every_form_of_a_refusal_by_rate_is_waited_for() {
    let sim = Sim::open().await;
    for body in ["text", "text_threshold", "detail", "json", "retry_after"] {
        let fault =
            json!({"too_many_requests": 1, "too_many_body": body, "only": "GET /api/v0/users"});
        sim.sim("faults", fault).await;
        let started = Instant::now();
        assert_eq!(client(&sim).account().await.unwrap().id, 501, "{body}");
        let least = match body {
            "text_threshold" => 4.5,
            "detail" | "retry_after" => 2.0,
            "json" => 3.0,
            _ => 1.0,
        };
        assert!(
            started.elapsed().as_secs_f64() >= least,
            "{body}: {:?}",
            started.elapsed()
        );
    }
    let quota = json!({"too_many_requests": 1, "too_many_body": "search_quota", "only": null});
    sim.sim("faults", quota).await;
    let vast = client(&sim);
    for _ in 0..2 {
        let answer = vast.offers(&asked("", Rental::OnDemand)).await;
        assert!(
            matches!(answer, Err(ProviderError::RateLimited { .. })),
            "{answer:?}"
        );
    }
    assert_eq!(
        sent(&sim, "POST /api/v0/bundles"),
        1,
        "a spent quota is not asked again"
    );
    sim.close().await;
}

#[tokio::test]
async fn what_says_no_with_200_and_what_is_no_json_is_an_error() {
    let sim = Sim::open().await;
    sim.sim("faults", json!({"says_no": 2})).await;
    let vast = client(&sim);
    assert!(matches!(
        vast.account().await,
        Err(ProviderError::Refused { status: 200, .. })
    ));
    assert!(matches!(
        vast.instances().await,
        Err(ProviderError::Refused { status: 200, .. })
    ));
    // A read is repeated when a gateway stumbles.
    sim.sim(
        "faults",
        json!({"server_error": 2, "server_error_status": 503}),
    )
    .await;
    assert_eq!(vast.instances().await.unwrap(), []);
    sim.close().await;
}

#[tokio::test]
async fn logs_are_fetched_from_where_they_appear_without_the_key() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    sim.sim("faults", json!({"result_delay_s": 1.0})).await;
    let text = client(&sim).container_log(id, 100).await.unwrap();
    assert!(text.contains("success, running i_1/ssh"), "{text}");
    let seen = sim.world.seen();
    let polls: Vec<_> = seen
        .iter()
        .filter(|seen| seen.path.starts_with("/results/"))
        .collect();
    assert!(polls.len() >= 2 && polls.iter().all(|poll| !poll.with_key));
    assert_eq!(polls[0].status, 404);
    sim.close().await;
}

#[tokio::test]
async fn more_instances_than_a_page_holds_are_all_listed() {
    let sim = Sim::open().await;
    sim.sim("credit", json!({"usd": 1000})).await;
    let mut made = 0;
    while made < 27 {
        let (_, found) = sim
            .call(
                "POST",
                "/api/v0/bundles/",
                json!({"num_gpus": {"eq": 1}, "allocated_storage": 10}),
            )
            .await;
        for offer in found["offers"].as_array().unwrap() {
            let path = format!("/api/v0/asks/{}/", offer["id"]);
            let (status, _) = sim
                .call("PUT", &path, json!({"image": "i", "disk": 10}))
                .await;
            made += usize::from(status == 200);
        }
    }
    let listed = client(&sim).instances().await.unwrap();
    assert_eq!(listed.len(), made);
    sim.close().await;
}

#[tokio::test]
async fn charges_of_all_pages_add_up_to_the_bill() {
    let sim = Sim::open().await;
    let id = sim.running(Some(0.75)).await;
    sim.sim("traffic", json!({"id": id, "down_gb": 10, "up_gb": 2}))
        .await;
    let vast = client(&sim);
    vast.destroy(id).await.unwrap();
    let charges = vast.charges(0.0, &[id]).await.unwrap();
    let (_, bill) = sim
        .call("GET", &format!("/sim/bill/{id}"), Value::Null)
        .await;
    let part = |name: &str| bill[name].as_f64().unwrap();
    assert_eq!(charges.len(), 1);
    assert!((charges[0].gpu_usd - part("gpu_usd")).abs() < 1e-9);
    assert!((charges[0].disk_usd - part("storage_usd")).abs() < 1e-9);
    assert!((charges[0].bandwidth_usd - part("traffic_usd")).abs() < 1e-9);
    sim.close().await;
}

#[tokio::test]
async fn one_program_keeps_to_the_rate_of_every_route() {
    let sim = Sim::open().await;
    let bid = sim.running(Some(0.75)).await;
    let (switched, ended) = (sim.running(None).await, sim.running(None).await);
    sim.sim("faults", json!({"rate_limits": true})).await;
    let vast = client(&sim);
    let offers = vast.offers(&asked("", Rental::OnDemand)).await.unwrap();
    let (one, other) = (&offers[0], offers.last().unwrap());
    assert_ne!(one.machine_id, other.machine_id);
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBlPBq6NbAFE8Gw4YVYpvbwYlQlGuVVhTXcIhlwBaqJp me@laptop";
    tokio::join!(
        async {
            for _ in 0..4 {
                vast.offers(&asked("", Rental::OnDemand)).await.unwrap();
            }
        },
        async {
            vast.rent(&order(one.id, "ours/1", None)).await.unwrap();
            vast.rent(&order(other.id, "ours/2", None)).await.unwrap();
        },
        async {
            for price in [0.8, 0.9] {
                vast.change_bid(bid, price).await.unwrap();
            }
        },
        async {
            for _ in 0..3 {
                vast.instance(bid).await.unwrap().unwrap();
            }
        },
        async {
            for _ in 0..3 {
                vast.instances().await.unwrap();
            }
        },
        async {
            for _ in 0..2 {
                vast.stop(switched).await.unwrap();
                assert!(vast.start(switched).await.unwrap());
            }
        },
        async {
            for _ in 0..2 {
                vast.destroy(ended).await.unwrap();
            }
        },
        async {
            for _ in 0..2 {
                vast.account().await.unwrap();
                vast.attach_key(bid, key).await.unwrap();
                vast.charges(0.0, &[bid]).await.unwrap();
            }
        },
    );
    let refused: Vec<String> = sim
        .world
        .seen()
        .iter()
        .filter(|seen| seen.status == 429)
        .map(|seen| format!("{} {}", seen.method, seen.path))
        .collect();
    assert_eq!(refused, Vec::<String>::new());
    let switches = format!("PUT /api/v0/instances/{switched}/");
    assert_eq!(sent(&sim, &switches), 4);
    sim.close().await;
}

#[tokio::test]
async fn two_programs_with_one_key_share_its_rates_and_both_come_through() {
    let sim = Sim::open().await;
    let id = sim.running(Some(0.75)).await;
    for form in ["text", "text_threshold", "retry_after"] {
        let switches = json!({"rate_limits": true, "too_many_body": form});
        sim.sim("faults", switches).await;
        let (one, other) = (client(&sim), client(&sim));
        one.instance(id).await.unwrap().unwrap();
        other.instance(id).await.unwrap().unwrap();
        one.stop(id).await.unwrap();
        assert!(other.start(id).await.unwrap(), "{form}");
    }
    sim.close().await;
}
