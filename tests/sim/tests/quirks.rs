//! spotter's client of the market against everything that the market is known to do to automation: one test for each habit, named
//! after it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may hope, and tell"
)]

mod support;

use std::time::Instant;

use serde_json::{Value, json};
use spotter::{
    provider::{
        Intended, Offer, OfferQuery, Provider, ProviderError, RentRequest, Rental,
        vast::{ApiKey, Vast},
    },
    spec::query,
};
use support::Sim;

fn client(sim: &Sim) -> Vast {
    client_with(sim, "a")
}

fn client_with(sim: &Sim, key: &str) -> Vast {
    Vast::new(sim.url.clone(), Some(ApiKey::new(key)))
}

fn asked(text: &str, rental: Rental) -> OfferQuery {
    OfferQuery {
        gpu_name: None,
        num_gpus: Some(1),
        rental,
        disk_gb: 40.0,
        filters: query::parse(text).unwrap(),
        hosts: Vec::new(),
        limit: 64,
    }
}

fn order(offer: u64, label: &str, bid: Option<f64>) -> RentRequest {
    RentRequest {
        offer,
        label: label.to_owned(),
        image: "i:1".to_owned(),
        disk_gb: 40.0,
        onstart: "true".to_owned(),
        env: Vec::new(),
        bid_usd_per_hour: bid,
    }
}

async fn cheapest(vast: &Vast) -> Offer {
    let query = asked("gpu_name=RTX_4090", Rental::OnDemand);
    vast.offers(&query).await.unwrap().remove(0)
}

fn sent(sim: &Sim, line: &str) -> usize {
    let seen = sim.world.seen();
    let is = |method: &str, path: &str| format!("{method} {path}").starts_with(line);
    seen.iter()
        .filter(|seen| is(&seen.method, &seen.path))
        .count()
}

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
async fn a_bid_under_the_floor_leaves_a_stopped_instance_whose_number_is_known() {
    let sim = Sim::open().await;
    let vast = client(&sim);
    let offer = cheapest(&vast).await;
    // Our own orders ask not to be left with one; an order of another client's making shows what happens then.
    let answer = vast.rent(&order(offer.id, "ours", Some(0.001))).await;
    assert!(
        matches!(answer, Err(ProviderError::OfferGone { leftover: None, .. })),
        "{answer:?}"
    );
    let body = json!({"image": "i", "disk": 20, "price": 0.001, "cancel_unavail": false});
    let (status, body) = sim
        .call("PUT", &format!("/api/v0/asks/{}/", offer.id), body)
        .await;
    assert_eq!(status, 400);
    let id = body["new_contract"].as_u64().unwrap();
    vast.destroy(id).await.unwrap();
    assert_eq!(vast.instance(id).await.unwrap(), None);
    // And it was reported of orders that ask not to be, when the price rose on their way.
    sim.sim("faults", json!({"bids_too_low": 1})).await;
    let query = asked("gpu_name=RTX_4090", Rental::Interruptible);
    let offer = vast.offers(&query).await.unwrap().remove(0);
    let floor = offer.min_bid_usd_per_hour.unwrap();
    let answer = client(&sim)
        .rent(&order(offer.id, "ours", Some(floor)))
        .await
        .unwrap_err();
    let id = answer.leftover().expect("the refusal names what it left");
    assert!(
        matches!(answer, ProviderError::BidTooLow { .. }),
        "{answer}"
    );
    let left = vast.instance(id).await.unwrap().unwrap();
    assert_eq!(left.label.as_deref(), Some("ours"));
    assert_eq!(
        (left.intended, left.contract_running),
        (Intended::Stopped, false)
    );
    assert_eq!(left.gpu_usd_per_hour, floor, "what was bid");
    let again = client(&sim).offers(&query).await.unwrap();
    let of_machine = |offers: &[Offer]| {
        let same = |row: &&Offer| row.machine_id == offer.machine_id;
        offers
            .iter()
            .find(same)
            .and_then(|row| row.min_bid_usd_per_hour)
    };
    assert!(
        of_machine(&again) > Some(floor),
        "the price rose for everybody"
    );
    sim.close().await;
}

#[tokio::test]
async fn an_offer_that_went_is_known_whatever_the_status() {
    let sim = Sim::open().await;
    for status in [404, 410, 400] {
        sim.sim(
            "faults",
            json!({"offers_gone": 1, "offers_gone_status": status}),
        )
        .await;
        let vast = client(&sim);
        let offer = cheapest(&vast).await;
        let answer = vast.rent(&order(offer.id, "ours", None)).await;
        assert!(
            matches!(answer, Err(ProviderError::OfferGone { .. })),
            "{status}: {answer:?}"
        );
    }
    sim.close().await;
}

#[tokio::test]
async fn a_box_that_runs_before_its_ports_are_published_has_no_address_yet() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    for no_ports in ["empty", "null", "absent", "null_entry"] {
        sim.sim(
            "faults",
            json!({"ports_delay_s": 1000.0, "no_ports": no_ports}),
        )
        .await;
        let instance = client(&sim).instance(id).await.unwrap().unwrap();
        assert!(instance.ssh.is_empty(), "{no_ports}: {:?}", instance.ssh);
    }
    sim.sim("faults", json!({"ports_delay_s": 0.0})).await;
    assert!(
        !client(&sim)
            .instance(id)
            .await
            .unwrap()
            .unwrap()
            .ssh
            .is_empty()
    );
    sim.close().await;
}

#[tokio::test]
async fn ports_that_are_only_in_the_list_are_read_from_there() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    sim.sim("faults", json!({"ports_only_in_list": true})).await;
    let instance = client(&sim).instance(id).await.unwrap().unwrap();
    assert!(
        instance.ssh.iter().any(|address| !address.proxy),
        "{:?}",
        instance.ssh
    );
    sim.close().await;
}

#[tokio::test]
async fn both_ways_to_a_box_are_kept_where_one_may_be_dead() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    let live = client(&sim).instance(id).await.unwrap().unwrap().ssh[0].port;
    for (route, expected) in [
        ("proxy", vec![(9, false), (live, true)]),
        ("direct", vec![(live, false), (9, true)]),
    ] {
        sim.sim("faults", json!({"ssh_route": route})).await;
        let instance = client(&sim).instance(id).await.unwrap().unwrap();
        let found: Vec<(u16, bool)> = instance
            .ssh
            .iter()
            .map(|address| (address.port, address.proxy))
            .collect();
        assert_eq!(found, expected, "{route}");
    }
    sim.close().await;
}

#[tokio::test]
async fn white_space_around_an_address_is_no_part_of_it() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    sim.sim("faults", json!({"padded_address": true})).await;
    let instance = client(&sim).instance(id).await.unwrap().unwrap();
    assert_eq!(instance.ssh[0].host, "127.0.0.1");
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
async fn names_with_underscores_and_filters_that_the_server_ignores_still_find_what_was_asked_for()
{
    let sim = Sim::open().await;
    let offers = client(&sim)
        .offers(&asked(
            "gpu_name=RTX_4090 reliability>0.99",
            Rental::OnDemand,
        ))
        .await
        .unwrap();
    assert!(!offers.is_empty());
    sim.sim("faults", json!({"filters_ignored": 1})).await;
    let again = client(&sim)
        .offers(&asked(
            "gpu_name=RTX_4090 reliability>0.99",
            Rental::OnDemand,
        ))
        .await
        .unwrap();
    assert!(!again.is_empty());
    for offer in again {
        assert!(
            offer.gpu_name == "RTX 4090" && offer.reliability > 0.99 && offer.num_gpus == 1,
            "{offer:?}"
        );
    }
    sim.close().await;
}

#[tokio::test]
async fn offers_are_priced_at_our_disk_and_a_filter_on_cuda_is_ours() {
    let sim = Sim::open().await;
    let query = asked("cuda_vers>=12.8", Rental::Interruptible);
    let offers = client(&sim).offers(&query).await.unwrap();
    assert!(!offers.is_empty() && offers.iter().all(|offer| offer.cuda >= 12.8));
    let (_, rows) = sim
        .call(
            "POST",
            "/api/v0/bundles/",
            json!({"type": "bid", "allocated_storage": 40, "num_gpus": {"eq": 1}}),
        )
        .await;
    for offer in &offers {
        let mut rows = rows["offers"].as_array().unwrap().iter();
        let row = rows.find(|row| row["id"] == offer.id).unwrap();
        let total = row["dph_total"].as_f64().unwrap();
        assert!((offer.running_usd_per_hour() - total).abs() < 1e-9);
    }
    let seen = sim.world.seen();
    let search = &seen
        .iter()
        .find(|seen| seen.path == "/api/v0/bundles/")
        .unwrap()
        .body;
    assert!(search.get("cuda_max_good").is_none(), "{search}");
    sim.close().await;
}

#[tokio::test]
async fn an_interruption_shows_in_the_intention_before_the_container_is_down() {
    let sim = Sim::open().await;
    let id = sim.running(Some(0.75)).await;
    sim.sim("outbid", json!({"id": id})).await;
    let seen = client(&sim).instance(id).await.unwrap().unwrap();
    assert_eq!(seen.intended, Intended::Stopped);
    assert!(!seen.contract_running && seen.is_bid);
    assert_eq!(seen.charged_gpu_usd_per_hour, Some(0.0));
    sim.until(id, "actual_status", "exited").await;
    sim.close().await;
}

#[tokio::test]
async fn a_higher_bid_may_leave_an_instance_stopped_until_it_is_started() {
    let sim = Sim::open().await;
    sim.sim("faults", json!({"no_auto_resume": true})).await;
    let id = sim.running(Some(0.75)).await;
    sim.sim("outbid", json!({"id": id})).await;
    sim.until(id, "actual_status", "exited").await;
    let vast = client(&sim);
    vast.change_bid(id, 2.0).await.unwrap();
    let seen = vast.instance(id).await.unwrap().unwrap();
    assert_eq!(seen.intended, Intended::Stopped);
    assert!(!seen.scheduling && !seen.contract_running);
    assert!(vast.start(id).await.unwrap(), "its bid is the highest");
    sim.until(id, "actual_status", "running").await;
    sim.close().await;
}

#[tokio::test]
async fn a_start_whose_gpu_is_taken_is_queued_and_a_stop_takes_it_off_the_queue() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    let vast = client(&sim);
    vast.stop(id).await.unwrap();
    sim.until(id, "actual_status", "exited").await;
    sim.sim("outbid", json!({"id": id, "on_demand": true}))
        .await;
    assert!(!vast.start(id).await.unwrap(), "queued");
    assert!(vast.instance(id).await.unwrap().unwrap().scheduling);
    vast.stop(id).await.unwrap();
    assert!(!client(&sim).instance(id).await.unwrap().unwrap().scheduling);
    sim.close().await;
}

#[tokio::test]
async fn a_key_may_be_attached_twice_and_to_an_account_without_keys() {
    let sim = Sim::open().await;
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBlPBq6NbAFE8Gw4YVYpvbwYlQlGuVVhTXcIhlwBaqJp me@laptop";
    let vast = client(&sim);
    vast.register_key(key).await.unwrap();
    client(&sim).register_key(key).await.unwrap();
    assert_eq!(sent(&sim, "POST /api/v0/ssh"), 1);
    let id = sim.running(None).await;
    let other = key.replace("IBlP", "IBlQ");
    vast.attach_key(id, &other).await.unwrap();
    client(&sim)
        .attach_key(id, &format!("{other}\n"))
        .await
        .unwrap();
    sim.until_told(id, "set keys").await;
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

#[tokio::test]
async fn an_instance_that_is_slow_to_vanish_does_not_run_and_may_be_destroyed_again() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    sim.sim("faults", json!({"destroy_delay_s": 1000.0})).await;
    client(&sim).destroy(id).await.unwrap();
    let seen = client(&sim).instance(id).await.unwrap().unwrap();
    assert!(!seen.contract_running && !seen.scheduling, "{seen:?}");
    client(&sim).destroy(id).await.unwrap();
    sim.close().await;
}

#[tokio::test]
async fn a_contract_that_has_ended_is_refused_for_good_and_its_end_was_known() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    let told = sim
        .sim("contract-ends", json!({"id": id, "in_s": 3600}))
        .await;
    let seen = client(&sim).instance(id).await.unwrap().unwrap();
    assert_eq!(seen.end_s, told["end_date"].as_f64());
    sim.sim("contract-ends", json!({"id": id})).await;
    sim.until(id, "actual_status", "exited").await;
    let answer = client(&sim).start(id).await;
    assert!(
        matches!(&answer, Err(ProviderError::Refused { message, .. }) if message.contains("has ended")),
        "{answer:?}"
    );
    sim.close().await;
}
