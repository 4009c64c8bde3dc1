//! What the HTTP API does that the official client never shows: keys, errors, bills, pages, and what boxes are told.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may hope, and tell"
)]

mod support;

use serde_json::{Value, json};
use support::Sim;

#[tokio::test]
async fn a_call_needs_a_key_and_says_so_in_the_documented_words() {
    let sim = Sim::open().await;
    let bare = sim
        .request("GET", "/api/v0/users/current")
        .send()
        .await
        .unwrap();
    assert_eq!(bare.status(), 403);
    let body: Value = bare.json().await.unwrap();
    assert_eq!(
        body,
        json!({"success": false, "error": "auth_error", "msg": "This action requires login."})
    );
    let (status, body) = sim
        .call_as("wrong", "GET", "/api/v0/users/current/", Value::Null)
        .await;
    assert_eq!(
        (status, &body["error"], &body["msg"]),
        (404, &json!("auth_error"), &json!("Invalid user key"))
    );
    let by_query = sim
        .request("GET", "/api/v0/users/current?api_key=b")
        .send()
        .await
        .unwrap();
    assert_eq!(by_query.status(), 200);
    assert_eq!(by_query.headers()["content-type"], "application/json");
    sim.close().await;
}

#[tokio::test]
async fn two_keys_see_one_account_and_another_account_sees_nothing() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    let path = format!("/api/v0/instances/{id}/");
    let list = |key: &'static str| sim.call_as(key, "GET", "/api/v1/instances/", Value::Null);
    assert_eq!(list("b").await.1["instances"][0]["id"], id);
    assert_eq!(list("other").await.1["instances"], json!([]));
    assert_eq!(
        sim.call_as("other", "GET", &path, Value::Null).await,
        (200, json!({"instances": null}))
    );
    let (status, body) = sim.call_as("other", "DELETE", &path, json!({})).await;
    assert_eq!((status, &body["error"]), (404, &json!("no_such_instance")));
    sim.close().await;
}

#[tokio::test]
async fn an_instances_own_key_shows_stops_starts_and_destroys_it_and_nothing_else() {
    let sim = Sim::open().await;
    let (id, other) = (sim.running(Some(0.4)).await, sim.running(None).await);
    let env = sim.boxes.specs.lock().unwrap()[&id].env.clone();
    let var = |name: &str| env.iter().find(|(key, _)| key == name).unwrap().1.clone();
    assert_eq!(
        (var("CONTAINER_ID"), var("VAST_URL"), var("A")),
        (id.to_string(), sim.url.clone(), "1".into())
    );
    assert_eq!(var("VAST_CONTAINERLABEL"), format!("C.{id}"));
    let key = var("CONTAINER_API_KEY");
    let path = format!("/api/v0/instances/{id}/");
    assert_eq!(
        sim.call_as(&key, "GET", &path, Value::Null).await.1["instances"]["id"],
        id
    );
    let forbidden = [
        ("GET", format!("/api/v0/instances/{other}/"), json!(null)),
        ("DELETE", format!("/api/v0/instances/{other}/"), json!({})),
        ("PUT", path.clone(), json!({"label": "mine"})),
        (
            "PUT",
            format!("/api/v0/instances/bid_price/{id}/"),
            json!({"price": 1}),
        ),
        ("GET", "/api/v1/instances/".into(), json!(null)),
        ("POST", "/api/v0/bundles/".into(), json!({})),
        ("GET", "/api/v0/users/current".into(), json!(null)),
        ("GET", "/api/v0/ssh/".into(), json!(null)),
    ];
    for (method, path, body) in forbidden {
        assert_eq!(
            sim.call_as(&key, method, &path, body).await.0,
            403,
            "{method} {path}"
        );
    }
    assert_eq!(
        sim.call_as(&key, "PUT", &path, json!({"state": "stopped"}))
            .await
            .0,
        200
    );
    sim.until(id, "actual_status", "exited").await;
    assert_eq!(
        sim.call_as(&key, "PUT", &path, json!({"state": "running"}))
            .await
            .0,
        200
    );
    sim.until(id, "actual_status", "running").await;
    assert_eq!(sim.call_as(&key, "DELETE", &path, json!({})).await.0, 200);
    assert_eq!(
        sim.call_as(&key, "GET", &path, Value::Null).await.0,
        404,
        "the key died with it"
    );
    sim.close().await;
}

#[tokio::test]
async fn an_outbid_instance_stops_keeps_its_box_and_comes_back_at_another_port() {
    let sim = Sim::open().await;
    let id = sim.running(Some(0.4)).await;
    let before = sim.row(id).await;
    assert_eq!(before["is_bid"], true);
    assert_eq!(
        (&before["dph_base"], &before["public_ipaddr"]),
        (&json!(0.4), &json!("127.0.0.1"))
    );
    sim.sim("outbid", json!({"id": id})).await;
    let during = sim.row(id).await;
    assert_eq!(
        (
            &during["intended_status"],
            &during["cur_state"],
            &during["next_state"]
        ),
        (&json!("stopped"), &json!("stopped"), &json!("stopped"))
    );
    assert_eq!(
        during["status_msg"], before["status_msg"],
        "the old text stays"
    );
    sim.until_told(id, "stop 10").await;
    let exited = sim.until(id, "actual_status", "exited").await;
    assert_eq!(exited["ports"], json!({}));
    sim.sim("tenant-leaves", json!({"id": id})).await;
    let after = sim.until(id, "actual_status", "running").await;
    assert_ne!(after["ports"], before["ports"]);
    assert_eq!(sim.boxes.calls(id), ["create", "start", "stop 10", "start"]);
    sim.close().await;
}

#[tokio::test]
async fn a_lost_host_takes_the_box_without_a_goodbye() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    sim.sim("host-loss", json!({"id": id})).await;
    sim.until_told(id, "lose power").await;
    sim.until(id, "actual_status", "offline").await;
    assert_eq!(sim.row(id).await["intended_status"], "running");
    sim.sim("host-back", json!({"id": id})).await;
    sim.until(id, "actual_status", "running").await;
    assert_eq!(
        sim.boxes.calls(id),
        ["create", "start", "lose power", "start"]
    );
    sim.close().await;
}

#[tokio::test]
async fn a_start_without_free_gpus_is_queued_with_success_on_the_wire_only() {
    let sim = Sim::open().await;
    let id = sim.running(None).await;
    let path = format!("/api/v0/instances/{id}/");
    sim.call("PUT", &path, json!({"state": "stopped"})).await;
    sim.until(id, "actual_status", "exited").await;
    sim.sim(
        "outbid",
        json!({"id": id, "on_demand": true, "for_s": 3600}),
    )
    .await;
    let (status, body) = sim.call("PUT", &path, json!({"state": "running"})).await;
    assert_eq!((status, &body["success"]), (200, &json!(false)));
    let row = sim.row(id).await;
    assert_eq!(
        (&row["intended_status"], &row["cur_state"]),
        (&json!("running"), &json!("stopped"))
    );
    sim.close().await;
}

#[tokio::test]
async fn a_bid_below_the_floor_answers_an_error_with_the_number_of_a_stopped_instance() {
    let sim = Sim::open().await;
    let offer = sim
        .offer(json!({"gpu_name": {"eq": "H100 SXM"}, "type": "bid"}))
        .await;
    let path = format!("/api/v0/asks/{}/", offer["id"]);
    let order = json!({"image": "i", "disk": 20, "price": 0.01, "cancel_unavail": false});
    let (status, body) = sim.call("PUT", &path, order).await;
    assert_eq!((status, &body["success"]), (400, &json!(false)));
    let id = body["new_contract"].as_u64().unwrap();
    let row = sim.row(id).await;
    assert_eq!(
        (&row["intended_status"], &row["instance"]["gpuCostPerHour"]),
        (&json!("stopped"), &json!(0.0))
    );
    sim.close().await;
}

#[tokio::test]
async fn charges_add_up_to_the_bill_in_table_and_in_tree() {
    let sim = Sim::open().await;
    let id = sim.running(Some(0.4)).await;
    sim.sim("traffic", json!({"id": id, "down_gb": 10, "up_gb": 2}))
        .await;
    sim.call(
        "PUT",
        &format!("/api/v0/instances/{id}/"),
        json!({"state": "stopped"}),
    )
    .await;
    sim.until(id, "actual_status", "exited").await;
    sim.call("DELETE", &format!("/api/v0/instances/{id}/"), json!({}))
        .await;
    let (_, bill) = sim
        .call("GET", &format!("/sim/bill/{id}"), Value::Null)
        .await;
    let total = bill["total_usd"].as_f64().unwrap();
    assert!(total > 0.02, "{bill}");
    let window = r#"select_filters={"day":{"gte":0,"lte":9000000000}}"#;
    for format in ["table", "tree"] {
        let path = format!("/api/v0/charges/?{window}&format={format}&limit=20");
        let (status, body) = sim.call("GET", &path, Value::Null).await;
        assert_eq!((status, &body["total"]), (200, &json!(1)));
        let row = &body["results"][0];
        assert!(
            (row["amount"].as_f64().unwrap() - total).abs() < 1e-12,
            "{row} {bill}"
        );
        let items = row["items"].as_array().unwrap();
        assert_eq!(items.is_empty(), format == "table");
        let mut kinds: Vec<_> = items
            .iter()
            .map(|item| item["type"].as_str().unwrap())
            .collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert!(
            items.is_empty() || kinds == ["bandwidth", "disk", "gpu"],
            "{kinds:?}"
        );
    }
    let (status, body) = sim
        .call(
            "GET",
            r#"/api/v0/charges/?select_filters={"day":{"gte":0}}"#,
            Value::Null,
        )
        .await;
    assert_eq!((status, &body["error"]), (400, &json!("invalid_request")));
    sim.close().await;
}

#[tokio::test]
async fn the_list_is_paged_and_computed_columns_are_no_search_keys() {
    let sim = Sim::open().await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(sim.running(None).await);
    }
    let mut got = Vec::new();
    let mut token = String::new();
    loop {
        let path = format!(
            r#"/api/v1/instances/?limit=2&order_by=[{{"col":"id","dir":"desc"}}]&after_token={token}&select_cols=["id","nonsense"]"#
        );
        let (_, page) = sim.call("GET", &path, Value::Null).await;
        assert_eq!(page["total_instances"], 3);
        for row in page["instances"].as_array().unwrap() {
            assert_eq!(row["nonsense"], Value::Null);
            got.push(row["id"].as_u64().unwrap());
        }
        match page["next_token"].as_str() {
            Some(next) => token = next.replace('+', "%2B"),
            None => break,
        }
    }
    made.reverse();
    assert_eq!(got, made);
    let (status, body) = sim
        .call(
            "GET",
            r#"/api/v1/instances/?select_filters={"dph_total":{"gt":0}}"#,
            Value::Null,
        )
        .await;
    assert_eq!(status, 400);
    assert_eq!(
        body["msg"],
        "Error in query parameters: dph_total is not a valid search key"
    );
    let (status, body) = sim
        .call(
            "GET",
            "/api/v1/instances/?after_token=nonsense",
            Value::Null,
        )
        .await;
    assert_eq!((status, &body["error"]), (400, &json!("invalid_token")));
    assert_eq!(
        sim.call("GET", "/api/v0/instances/?owner=me", Value::Null)
            .await
            .0,
        410
    );
    sim.close().await;
}

#[tokio::test]
async fn an_account_without_credit_rents_nothing() {
    let sim = Sim::open().await;
    sim.sim("credit", json!({"account": 1, "usd": -50})).await;
    let offer = sim.offer(json!({})).await;
    let path = format!("/api/v0/asks/{}/", offer["id"]);
    let (status, body) = sim
        .call_as("other", "PUT", &path, json!({"image": "i", "disk": 20}))
        .await;
    assert_eq!(
        (status, &body["error"]),
        (400, &json!("insufficient_credit"))
    );
    sim.close().await;
}
