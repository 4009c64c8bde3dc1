//! What goes wrong on request: the fault switches, and the control interface around them.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may hope, and tell"
)]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::Sim;

#[tokio::test]
async fn a_lost_answer_to_a_create_leaves_the_instance_to_be_found_by_its_label() {
    let sim = Sim::open().await;
    sim.sim("faults", json!({"lose_create_answer": 1})).await;
    let offer = sim.offer(json!({"num_gpus": {"eq": 1}})).await;
    let path = format!("/api/v0/asks/{}/", offer["id"]);
    let order = json!({"image": "i", "disk": 20, "label": "run/1"});
    let lost = sim
        .request("PUT", &path)
        .bearer_auth("a")
        .json(&order)
        .send()
        .await;
    assert!(lost.is_err(), "the connection was dropped: {lost:?}");
    let filters = r#"/api/v1/instances/?select_filters={"label":{"in":["run/1"]}}"#;
    let (_, found) = sim.call("GET", filters, Value::Null).await;
    assert_eq!(found["instances"].as_array().unwrap().len(), 1);
    assert_eq!(found["label_counts"], json!({"run/1": 1}));
    let (_, seen) = sim.call("GET", "/sim/requests", Value::Null).await;
    let create = seen
        .as_array()
        .unwrap()
        .iter()
        .find(|request| request["path"] == path.as_str())
        .unwrap();
    assert_eq!(create["status"], 0);
    sim.close().await;
}

#[tokio::test]
async fn counted_faults_have_the_bodies_that_were_seen() {
    let sim = Sim::open().await;
    let cases = [
        (
            json!({"too_many_requests": 1}),
            429,
            "API requests too frequent",
        ),
        (
            json!({"too_many_requests": 1, "too_many_body": "text_threshold"}),
            429,
            "threshold=",
        ),
        (
            json!({"too_many_requests": 1, "too_many_body": "detail"}),
            429,
            "detail",
        ),
        (
            json!({"too_many_requests": 1, "too_many_body": "json"}),
            429,
            "rate_limit_exceeded",
        ),
        (
            json!({"too_many_requests": 1, "too_many_body": "search_quota"}),
            429,
            "search_quota_exceeded",
        ),
        (json!({"server_error": 1}), 502, "<html>"),
        (
            json!({"server_error": 1, "server_error_status": 504}),
            504,
            "<html>",
        ),
    ];
    for (fault, status, text) in cases {
        sim.sim("faults", fault.clone()).await;
        let (got, body) = sim.call("GET", "/api/v0/users/current", Value::Null).await;
        assert!(
            got == status && body.to_string().contains(text),
            "{fault}: {got} {body}"
        );
        assert_eq!(
            sim.call("GET", "/api/v0/users/current", Value::Null)
                .await
                .0,
            200
        );
    }
    sim.sim(
        "faults",
        json!({"too_many_requests": 1, "retry_after_s": 7}),
    )
    .await;
    let limited = sim
        .request("GET", "/api/v0/users/current")
        .send()
        .await
        .unwrap();
    assert_eq!(limited.headers()["retry-after"], "7");
    let (status, body) = sim
        .call("POST", "/sim/faults", json!({"no_such_switch": 1}))
        .await;
    assert!(status == 400 && body["error"].as_str().unwrap().contains("no_such_switch"));
    sim.close().await;
}

#[tokio::test]
async fn an_offer_that_went_is_refused_in_each_of_the_ways_seen() {
    let sim = Sim::open().await;
    for status in [404, 410, 400] {
        sim.sim(
            "faults",
            json!({"offers_gone": 1, "offers_gone_status": status}),
        )
        .await;
        let offer = sim.offer(json!({})).await;
        let path = format!("/api/v0/asks/{}/", offer["id"]);
        let (got, body) = sim
            .call("PUT", &path, json!({"image": "i", "disk": 20}))
            .await;
        assert_eq!(got, status);
        assert!(body.to_string().contains("no_such_ask"), "{body}");
        let (got, body) = sim
            .call("PUT", &path, json!({"image": "i", "disk": 20}))
            .await;
        assert!(
            got == 404 && body.to_string().contains("no_such_ask"),
            "it is really gone: {body}"
        );
    }
    sim.close().await;
}

#[tokio::test]
async fn keys_attached_later_reach_the_box_and_delayed_keys_arrive_late() {
    let sim = Sim::open().await;
    assert_eq!(
        sim.call("GET", "/api/v0/ssh/", Value::Null).await.0,
        404,
        "none yet"
    );
    sim.sim("faults", json!({"key_delay_s": 0.2})).await;
    let first = "ssh-ed25519 AAAAfirst me@laptop";
    let (_, made) = sim
        .call("POST", "/api/v0/ssh/", json!({"ssh_key": first}))
        .await;
    assert_eq!(made["key"]["public_key"], first);
    assert_eq!(
        sim.call("POST", "/api/v0/ssh/", json!({"ssh_key": "./k.pub"}))
            .await
            .0,
        400
    );
    assert_eq!(
        sim.call("GET", "/api/v0/ssh", Value::Null).await.1[0]["key"],
        first
    );
    let id = sim.running(None).await;
    assert!(
        sim.boxes.specs.lock().unwrap()[&id]
            .authorized_keys
            .is_empty()
    );
    sim.until_told(id, "set keys").await;
    assert_eq!(sim.boxes.keys.lock().unwrap()[&id], [first]);

    let path = format!("/api/v0/instances/{id}/ssh/");
    let second = "ssh-ed25519 AAAAsecond me@desk";
    let body = json!({"ssh_key": format!("{second}\n")});
    assert_eq!(
        sim.call("POST", &path, body.clone()).await.1["success"],
        true
    );
    let (_, again) = sim.call("POST", &path, body).await;
    assert_eq!(again["msg"], "SSH key already associated with instance.");
    let (_, list) = sim.call("GET", &path, Value::Null).await;
    let list: Value = serde_json::from_str(list["ssh_keys"].as_str().unwrap()).unwrap();
    assert_eq!(list[1]["key"], second);
    while sim.boxes.keys.lock().unwrap()[&id] != [first, second] {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let detach = format!("/api/v0/instances/{id}/ssh/{}/", list[0]["id"]);
    assert_eq!(sim.call("DELETE", &detach, json!({})).await.0, 200);
    assert_eq!(
        sim.call("DELETE", &detach, json!({})).await.1["error"],
        "no_such_ssh_key"
    );
    while sim.boxes.keys.lock().unwrap()[&id] != [second] {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sim.close().await;
}

#[tokio::test]
async fn a_box_that_does_not_start_stays_loading_with_the_daemons_text() {
    let sim = Sim::open().await;
    *sim.boxes.refuse_start.lock().unwrap() = Some("manifest unknown".into());
    let offer = sim.offer(json!({})).await;
    let path = format!("/api/v0/asks/{}/", offer["id"]);
    let (_, made) = sim
        .call("PUT", &path, json!({"image": "i", "disk": 20}))
        .await;
    let id = made["new_contract"].as_u64().unwrap();
    sim.until(
        id,
        "status_msg",
        "Error response from daemon: manifest unknown",
    )
    .await;
    assert_eq!(sim.row(id).await["actual_status"], "loading");
    sim.close().await;
}

#[tokio::test]
async fn the_control_interface_says_what_it_could_not_do() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    let (status, body) = sim.call("POST", "/sim/outbid", json!({"id": id})).await;
    assert!(
        status == 400 && body["error"].as_str().unwrap().contains("rank above"),
        "{body}"
    );
    assert_eq!(
        sim.call("POST", "/sim/outbid", json!({"id": 1})).await.0,
        400
    );
    assert_eq!(
        sim.call(
            "POST",
            "/sim/link",
            json!({"id": id, "fault": {"delay": 5}})
        )
        .await
        .0,
        200
    );
    assert_eq!(sim.boxes.calls(id).last().unwrap(), "link Delay(5)");
    let (_, state) = sim.call("GET", "/sim/state", Value::Null).await;
    assert_eq!(state["instances"][0]["container"], "up");
    assert_eq!(state["machines"].as_array().unwrap().len(), 16);
    assert_eq!(
        sim.call("POST", "/sim/s3", json!({})).await.0,
        400,
        "this one has no bucket"
    );
    sim.close().await;
}

#[tokio::test]
async fn enforced_rates_refuse_with_the_routes_own_figures_and_each_key_by_itself() {
    let sim = Sim::open().await;
    sim.sim("faults", json!({"rate_limits": true})).await;
    // Ten in a minute: the longest period, so that no slow machine gets an eleventh through.
    let search = |key: &'static str| sim.call_as(key, "POST", "/api/v0/bundles/", json!({}));
    for _ in 0..10 {
        assert_eq!(search("a").await.0, 200);
    }
    let json_text = "API requests too frequent endpoint threshold=6.0";
    for (form, expected) in [
        ("text", json!("API requests too frequent")),
        (
            "text_threshold",
            json!("API requests too frequent: endpoint threshold=6.0"),
        ),
        ("detail", json!({ "detail": json_text })),
        (
            "json",
            json!({"success": false, "error": "rate_limit_exceeded", "msg": json_text}),
        ),
    ] {
        sim.sim("faults", json!({"too_many_body": form})).await;
        assert_eq!(search("a").await, (429, expected), "{form}");
    }
    sim.sim("faults", json!({"too_many_body": "retry_after"}))
        .await;
    let (status, body) = search("a").await;
    let wait_s = body["retry_after"].as_u64().unwrap();
    assert!(status == 429 && (1..=60).contains(&wait_s), "{body}");
    assert_eq!(search("b").await.0, 200, "another key, another rate");
    assert_eq!(
        sim.call("GET", "/api/v1/instances/", Value::Null).await.0,
        200,
        "another route, another rate"
    );
    sim.sim("faults", json!({"rate_limits": false})).await;
    assert_eq!(search("a").await.0, 200);
    sim.close().await;
}

#[tokio::test]
async fn a_host_that_is_lost_unnoticed_is_shown_running_with_its_ports() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    let before = sim.row(id).await;
    let lost = sim
        .sim("host-loss", json!({"id": id, "unnoticed": true}))
        .await;
    assert_eq!(lost, json!({"lost": [id]}));
    sim.until_told(id, "lose power").await;
    let row = sim.row(id).await;
    assert_eq!(row["actual_status"], "running");
    assert_eq!(row["ports"], before["ports"]);
    sim.sim("host-back", json!({"id": id})).await;
    sim.until(id, "actual_status", "running").await;
    while sim.row(id).await["ports"] == before["ports"] {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sim.close().await;
}

#[tokio::test]
async fn a_contract_that_ends_is_announced_stops_its_instance_and_cannot_be_started_again() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    let told = sim
        .sim("contract-ends", json!({"id": id, "in_s": 3600}))
        .await;
    let row = sim.row(id).await;
    assert_eq!(row["end_date"], told["end_date"]);
    assert!((0.0..=3600.0).contains(&row["duration"].as_f64().unwrap()));
    assert_eq!(row["actual_status"], "running");

    sim.sim("contract-ends", json!({"id": id})).await;
    let row = sim.until(id, "actual_status", "exited").await;
    assert_eq!(
        (&row["intended_status"], &row["cur_state"]),
        (&json!("stopped"), &json!("stopped"))
    );
    let path = format!("/api/v0/instances/{id}/");
    let (status, body) = sim.call("PUT", &path, json!({"state": "running"})).await;
    assert!(
        status == 400 && body["msg"].as_str().unwrap().contains("has ended"),
        "{body}"
    );
    let machine = json!({"machine_id": {"eq": row["machine_id"]}});
    let (_, found) = sim.call("POST", "/api/v0/bundles/", machine).await;
    assert_eq!(found["offers"], json!([]));
    let (status, body) = sim
        .call("POST", "/sim/contract-ends", json!({"id": id, "in_s": -1}))
        .await;
    assert!(status == 400 && body["error"].as_str().unwrap().contains("in_s"));
    sim.close().await;
}

#[tokio::test]
async fn a_destroyed_instance_may_take_its_time_to_vanish() {
    let sim = Sim::open().await;
    let (slow, quick) = (sim.running(None).await, sim.running(None).await);
    let path = |id: u64| format!("/api/v0/instances/{id}/");
    sim.sim("faults", json!({"destroy_delay_s": 1000.0})).await;
    assert_eq!(sim.call("DELETE", &path(slow), json!({})).await.0, 200);
    assert_eq!(sim.row(slow).await["cur_state"], "unloaded");
    let (_, listed) = sim.call("GET", "/api/v1/instances/", Value::Null).await;
    assert_eq!(listed["instances"].as_array().unwrap().len(), 2);
    let (status, body) = sim.call("DELETE", &path(slow), json!({})).await;
    assert_eq!((status, &body["error"]), (404, &json!("no_such_instance")));
    sim.sim("faults", json!({"destroy_delay_s": 0.0})).await;
    assert_eq!(sim.call("DELETE", &path(quick), json!({})).await.0, 200);
    assert_eq!(sim.row(quick).await, Value::Null);
    let (_, bill) = sim
        .call("GET", &format!("/sim/bill/{slow}"), Value::Null)
        .await;
    assert!(bill["destroyed_ms"].is_number(), "{bill}");
    sim.close().await;
}

#[tokio::test]
async fn a_search_answers_64_offers_at_most_however_many_there_are() {
    let sim = Sim::open_with(60).await;
    let (_, state) = sim.call("GET", "/sim/state", Value::Null).await;
    let listed: usize = state["machines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|machine| machine["listings"].as_array().unwrap().len())
        .sum();
    assert!(listed > 150, "{listed} offers");
    for query in [json!({}), json!({"limit": 1000}), json!({"limit": 64})] {
        let (_, found) = sim.call("POST", "/api/v0/bundles/", query).await;
        assert_eq!(found["offers"].as_array().unwrap().len(), 64);
    }
    sim.close().await;
}
