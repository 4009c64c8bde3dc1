//! The official client (`vastai==1.9.1`) against the simulator: every verb that spotter's users know, by what it sends and prints.
//!
//! Needs the client: `SPOTTER_VASTAI` names it, or it lies in `target/venv` of the workspace. Without it the test says that it
//! was skipped; with `SPOTTER_REQUIRE_ALL=1` it fails.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may hope, and tell"
)]

mod support;

use serde_json::{Value, json};
use support::{Sim, vastai::Client};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBlPBq6NbAFE8Gw4YVYpvbwYlQlGuVVhTXcIhlwBaqJp me@laptop";

#[tokio::test]
async fn the_official_client_searches_rents_reads_acts_and_destroys() {
    let sim = Sim::open().await;
    let Some(client) = Client::find(&sim) else {
        return sim.close().await;
    };

    // The first use also asks for GPU names, without a key, and for the user.
    let user = client.run(&["show", "user", "--raw"]).await;
    assert_eq!(user.json()["id"], 501, "{}", user.stderr);
    assert_eq!(user.json()["credit"], 50.0);
    assert!(
        user.json().get("api_key").is_none(),
        "the client removes it"
    );

    let offers = searching(&client).await;
    let offer = offers[0]["id"].to_string();
    let (id, bid) = renting(&client, &offer).await;
    reading(&client, id, bid).await;
    acting(&client, id).await;
    failing(&client).await;
    sim.close().await;
}

async fn searching(client: &Client<'_>) -> Value {
    let table = client
        .run(&["search", "offers", "gpu_name=RTX_4090 num_gpus=1"])
        .await;
    assert!(
        table.stdout.contains("RTX_4090"),
        "{}{}",
        table.stdout,
        table.stderr
    );
    let (method, path, body) = table.sent.last().unwrap();
    assert_eq!(
        (method.as_str(), path.as_str()),
        ("POST", "/api/v0/bundles/")
    );
    assert_eq!(
        body["num_gpus"],
        json!({"eq": "1"}),
        "the client sends numbers as strings"
    );
    assert_eq!(
        table.stdout.matches("1x  RTX_4090").count(),
        4,
        "{}",
        table.stdout
    );

    let query = "reliability>0.98 num_gpus>=4 gpu_ram>=24 duration>=3 verified=any geolocation notin [CN,VN] driver_version>=535.86.05";
    let bids = client
        .run(&[
            "search",
            "offers",
            query,
            "-t",
            "bid",
            "-o",
            "dph",
            "--storage",
            "100",
            "--raw",
        ])
        .await;
    let bids = bids.json();
    let prices: Vec<f64> = bids
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["dph_total"].as_f64().unwrap())
        .collect();
    assert!(prices.len() > 3 && prices.is_sorted(), "{prices:?}");
    for row in bids.as_array().unwrap() {
        assert!(row["num_gpus"].as_u64() >= Some(4) && row["gpu_ram"].as_f64() >= Some(24_000.0));
        let sum = row["min_bid"].as_f64().unwrap()
            + row["storage_cost"].as_f64().unwrap() * 100.0 / 720.0;
        let total = row["dph_total"].as_f64().unwrap();
        assert!((total - sum).abs() < 1e-12, "{total} {sum}");
    }
    let new = client
        .run(&[
            "search",
            "offers",
            "gpu_name in [RTX_4090,RTX_3090] static_ip=true",
            "--new",
            "--raw",
        ])
        .await;
    assert_eq!(new.sent.last().unwrap().1, "/api/v0/search/asks/");
    assert!(
        new.json()
            .as_array()
            .unwrap()
            .iter()
            .all(|row| row["static_ip"] == true)
    );
    assert!(!new.json().as_array().unwrap().is_empty());

    let found = client
        .run(&[
            "search",
            "offers",
            "gpu_name=RTX_4090 num_gpus=2",
            "-o",
            "dph",
            "--raw",
        ])
        .await;
    found.json()
}

async fn renting(client: &Client<'_>, offer: &str) -> (u64, f64) {
    let made = client.run(&["create", "ssh-key", KEY]).await;
    assert_eq!(
        made.sent.last().unwrap().2,
        json!({"ssh_key": KEY}),
        "{}",
        made.stderr
    );
    let keys = client.run(&["show", "ssh-keys", "--raw"]).await;
    assert!(
        keys.stdout.contains("me@laptop"),
        "{}{}",
        keys.stdout,
        keys.stderr
    );

    let bid = 0.75;
    let rented = client
        .run(&[
            "create",
            "instance",
            offer,
            "--image",
            "pytorch/pytorch:latest",
            "--disk",
            "40",
            "--ssh",
            "--direct",
            "--bid_price",
            "0.75",
            "--env",
            "-e FOO=bar -p 8080:8080 -h myhost",
            "--label",
            "job-1",
            "--onstart-cmd",
            "touch /root/x",
            "--raw",
        ])
        .await;
    let answer = rented.json();
    assert_eq!(answer["success"], true, "{}", rented.stderr);
    let id = answer["new_contract"].as_u64().unwrap();
    let (method, path, body) = rented.sent.last().unwrap();
    assert_eq!(
        (method.as_str(), path.as_str()),
        ("PUT", format!("/api/v0/asks/{offer}/").as_str())
    );
    assert_eq!(
        (&body["runtype"], &body["price"]),
        (&json!("ssh_direc ssh_proxy"), &json!(bid))
    );

    let again = client
        .run(&["create", "instance", offer, "--image", "i", "--disk", "40"])
        .await;
    assert!(
        again.stderr.contains("no_such_ask"),
        "an offer is rented once: {}{}",
        again.stdout,
        again.stderr
    );
    client.sim.until(id, "actual_status", "running").await;
    let spec = client.sim.boxes.specs.lock().unwrap()[&id].clone();
    assert_eq!(
        (spec.onstart.as_str(), spec.num_gpus, spec.disk_mb),
        ("touch /root/x", 2, 40_000)
    );
    assert_eq!(spec.authorized_keys, [KEY]);
    assert!(spec.env.contains(&("FOO".into(), "bar".into())));
    assert!(
        spec.env.iter().all(|(name, _)| !name.starts_with('-')),
        "docker's flags are no variables"
    );
    (id, bid)
}

async fn reading(client: &Client<'_>, id: u64, bid: f64) {
    let list = client.run(&["show", "instances", "--raw"]).await;
    let rows = list.json();
    assert_eq!(rows.as_array().unwrap().len(), 1);
    assert_eq!(
        (&rows[0]["label"], &rows[0]["extra_env"]["FOO"]),
        (&json!("job-1"), &json!("bar"))
    );
    let table = client.run(&["show", "instances"]).await;
    assert!(
        table.stdout.contains(&id.to_string()),
        "{}{}",
        table.stdout,
        table.stderr
    );
    assert!(
        table
            .sent
            .iter()
            .any(|(_, path, _)| path == "/api/v0/instances/filters/")
    );
    let filtered = client
        .run(&["show", "instances", "--label", "job-2", "--raw"])
        .await;
    assert_eq!(filtered.json(), json!([]));

    let number = id.to_string();
    let one = client.run(&["show", "instance", &number, "--raw"]).await;
    let row = one.json();
    assert_eq!(
        (&row["actual_status"], &row["is_bid"]),
        (&json!("running"), &json!(true))
    );
    let total = bid + row["storage_total_cost"].as_f64().unwrap();
    assert!((row["dph_total"].as_f64().unwrap() - total).abs() < 1e-12);
    let table = client.run(&["show", "instance", &number]).await;
    assert!(
        table.stdout.contains(&number),
        "{}{}",
        table.stdout,
        table.stderr
    );

    let port = row["ports"]["22/tcp"][0]["HostPort"].as_str().unwrap();
    let url = client.run(&["ssh-url", &number]).await;
    assert_eq!(
        url.stdout.trim(),
        format!("ssh://root@127.0.0.1:{port}"),
        "{}",
        url.stderr
    );
}

async fn acting(client: &Client<'_>, id: u64) {
    let number = &id.to_string();
    let path = format!("/api/v0/instances/{id}/");
    let stopped = client.run(&["stop", "instance", number]).await;
    stopped.check(
        "stopping instance",
        "PUT",
        &path,
        &json!({"state": "stopped"}),
    );
    client.sim.until(id, "actual_status", "exited").await;
    let started = client.run(&["start", "instance", number]).await;
    started.check(
        "starting instance",
        "PUT",
        &path,
        &json!({"state": "running"}),
    );
    client.sim.until(id, "actual_status", "running").await;

    let labelled = client.run(&["label", "instance", number, "job-2"]).await;
    labelled.check("label", "PUT", &path, &json!({"label": "job-2"}));
    assert_eq!(client.sim.row(id).await["label"], "job-2");

    let bid_path = format!("/api/v0/instances/bid_price/{id}/");
    let bid = client
        .run(&["change", "bid", number, "--price", "0.8"])
        .await;
    bid.check(
        "",
        "PUT",
        &bid_path,
        &json!({"client_id": "me", "price": 0.8}),
    );
    assert_eq!(client.sim.row(id).await["dph_base"], 0.8);
    let winning = client.run(&["change", "bid", number]).await;
    winning.check(
        "",
        "PUT",
        &bid_path,
        &json!({"client_id": "me", "price": null}),
    );
    assert!(
        client.sim.row(id).await["dph_base"].as_f64().unwrap() < 0.8,
        "a winning price may be lower"
    );

    let second = KEY.replace("IBlP", "IBlQ");
    let attached = client.run(&["attach", "ssh", number, &second]).await;
    attached.check(
        "",
        "POST",
        &format!("{path}ssh/"),
        &json!({"ssh_key": second}),
    );
    client.sim.until_told(id, "set keys").await;

    let charges = client.run(&["show", "invoices-v1", "-c", "--raw"]).await;
    assert!(
        charges.stdout.contains(&format!("instance-{id}")),
        "{}{}",
        charges.stdout,
        charges.stderr
    );

    let destroyed = client.run(&["destroy", "instance", number, "-y"]).await;
    destroyed.check("destroying instance", "DELETE", &path, &json!({}));
    client.sim.until_told(id, "destroy").await;
    let gone = client.run(&["show", "instance", number]).await;
    assert_eq!(gone.code, 1, "{}{}", gone.stdout, gone.stderr);
    let again = client.run(&["destroy", "instance", number, "-y"]).await;
    assert!(
        again.stderr.contains("404"),
        "{}{}",
        again.stdout,
        again.stderr
    );
}

async fn failing(client: &Client<'_>) {
    let wrong = client.run_with_key("wrong", &["show", "user"]).await;
    assert!(
        wrong.stderr.contains("Invalid user key"),
        "{}{}",
        wrong.stdout,
        wrong.stderr
    );
    client
        .sim
        .sim(
            "faults",
            json!({"too_many_requests": 2, "only": "users/current"}),
        )
        .await;
    let retried = client.run(&["show", "user", "--raw"]).await;
    assert_eq!(
        retried.json()["id"],
        501,
        "the third attempt is answered: {}",
        retried.stderr
    );
    assert_eq!(retried.sent.len(), 3);
}
