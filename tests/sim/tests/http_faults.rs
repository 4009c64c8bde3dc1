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
