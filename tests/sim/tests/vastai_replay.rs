//! The wire log of the official client (`vastai==1.9.1`), line by line: commands in, the requests it makes and what it prints out.
//!
//! The log is data, beside this file; here is what each part of it finds on the market. Needs the client, as `vastai_client.rs` does.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may hope, and tell"
)]

#[path = "vastai_replay/player.rs"]
mod player;
mod support;

use std::time::Instant;

use player::{Numbers, differences, lines, play, run, spoken};
use serde_json::{Value, json};
use spotter_sim::world::SeenRequest;
use support::{Sim, vastai::Client};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBlPBq6NbAFE8Gw4YVYpvbwYlQlGuVVhTXcIhlwBaqJp me@laptop";

/// The extra requests of the first use are made once, here.
async fn first_use(client: &Client<'_>) {
    let ran = client
        .run(&["search", "offers", "gpu_name=RTX_4090 num_gpus=1"])
        .await;
    let spoken: Vec<String> = ran.seen.iter().map(spoken).collect();
    assert_eq!(
        spoken,
        [
            "GET /api/v0/gpu_names/unique/",
            "GET /api/v0/users/current",
            "POST /api/v0/bundles/"
        ]
    );
    assert!(!ran.seen[0].with_key && ran.seen[2].with_key);
}

/// Makes the template of the log; its hash.
async fn template(client: &Client<'_>) -> String {
    play(client, "templates", &Numbers::new()).await;
    let (_, list) = client
        .sim
        .call("GET", "/api/v0/template/", Value::Null)
        .await;
    list["templates"][0]["hash_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn searches() {
    let sim = Sim::open().await;
    let Some(client) = Client::find(&sim) else {
        return sim.close().await;
    };
    first_use(&client).await;
    play(&client, "searches", &Numbers::new()).await;
    sim.close().await;
}

#[tokio::test]
async fn creates() {
    let sim = Sim::open().await;
    let Some(client) = Client::find(&sim) else {
        return sim.close().await;
    };
    first_use(&client).await;
    let script = client.home.path().join("onstart.sh");
    std::fs::write(&script, "echo file\n").unwrap();
    let hash = template(&client).await;
    let mut wrong = Vec::new();
    for line in lines("creates") {
        let offer = sim.offer(json!({"num_gpus": {"eq": 1}})).await["id"].to_string();
        let numbers = vec![
            ("OFFER", offer),
            ("HASH", hash.clone()),
            ("SCRIPT", script.display().to_string()),
        ];
        let ran = run(&client, &line.command, &numbers).await;
        wrong.extend(differences(&line, &ran, &numbers));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    // What the template says became the instance's.
    let (_, list) = sim.call("GET", "/sim/state", Value::Null).await;
    let made = list["instances"].as_array().unwrap();
    let of_template = made.iter().find(|row| row["disk_space"] == 64.0).unwrap();
    assert_eq!(
        of_template["extra_env"],
        json!([["A", "1"], ["-p 80:80", "1"]])
    );

    let query = json!({"num_gpus": {"eq": 1}, "order": [["dph_total", "asc"]]});
    let (_, found) = sim.call("POST", "/api/v0/bundles/", query).await;
    let number = |row: usize| found["offers"][row]["id"].to_string();
    let numbers = vec![("ONE", number(0)), ("TWO", number(1))];
    let ran = play(&client, "creates of several", &numbers).await;
    assert_eq!(ran[1].seen[0].status, 200, "{}", ran[1].stderr);
    sim.close().await;
}

#[tokio::test]
async fn reads() {
    let sim = Sim::open().await;
    let Some(client) = Client::find(&sim) else {
        return sim.close().await;
    };
    first_use(&client).await;
    sim.call("POST", "/api/v0/ssh/", json!({"ssh_key": KEY}))
        .await;
    let id = sim.running(None).await;
    let path = format!("/api/v0/instances/{id}/");
    sim.call("PUT", &path, json!({"label": "job-1"})).await;
    let row = sim.row(id).await;
    let port = row["ports"]["22/tcp"][0]["HostPort"].as_str().unwrap();
    let numbers = vec![("ID", id.to_string()), ("PORT", port.to_owned())];
    play(&client, "reads", &numbers).await;
    let charges = run(&client, "show invoices-v1 -c --raw", &numbers).await;
    let request = charges.seen.last().map(spoken).unwrap();
    assert!(
        request.starts_with("GET /api/v0/charges/?select_filters={\"day\""),
        "{request}"
    );
    assert!(
        request.ends_with("&latest_first=false&limit=20&format=table"),
        "{request}"
    );

    let offer = sim.offer(json!({"num_gpus": {"eq": 1}})).await;
    let path = format!("/api/v0/asks/{}/", offer["id"]);
    let order = json!({"image": "i:1", "disk": 10, "runtype": "jupyter_direc ssh_direc ssh_proxy"});
    let (_, made) = sim.call("PUT", &path, order).await;
    let jupyter = made["new_contract"].as_u64().unwrap();
    let proxy = sim.until(jupyter, "actual_status", "running").await["ssh_port"]
        .as_u64()
        .unwrap();
    let numbers = vec![
        ("JUPYTER", jupyter.to_string()),
        ("NEXT", (proxy + 1).to_string()),
    ];
    sim.sim("faults", json!({"ports_exhausted": true})).await;
    play(&client, "addresses", &numbers).await;
    let late = sim.running(None).await;
    let proxy = sim.row(late).await["ssh_port"].to_string();
    sim.sim("faults", json!({"ports_delay_s": 1e6})).await;
    let numbers = vec![("LATE", late.to_string()), ("PROXY", proxy)];
    play(&client, "addresses of none", &numbers).await;
    sim.close().await;
}

#[tokio::test]
async fn acts() {
    let sim = Sim::open().await;
    let Some(client) = Client::find(&sim) else {
        return sim.close().await;
    };
    first_use(&client).await;
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("left.txt"), "x").unwrap();
    *sim.boxes.home.lock().unwrap() = Some(home.path().to_owned());
    let file = |name: &str, text: &str| {
        let path = client.home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (bid, on_demand) = (sim.running(Some(0.75)).await, sim.running(None).await);
    let (_, volumes) = sim.call("POST", "/api/v0/volumes/search/", json!({})).await;
    let numbers = vec![
        ("BID", bid.to_string()),
        ("ID", on_demand.to_string()),
        ("KEYFILE", file("k.pub", &format!("{KEY}\n"))),
        ("KEY", KEY.replace("IBlP", "IBlR")),
        ("OTHER", KEY.to_owned()),
        ("VOLUME", volumes["offers"][0]["id"].to_string()),
        (
            "PERMISSIONS",
            file("permissions.json", r#"{"api": {"misc": {}}}"#),
        ),
    ];
    play(&client, "acts", &numbers).await;
    let (_, volumes) = sim.call("GET", "/api/v0/volumes", Value::Null).await;
    let made = vec![("MADE", volumes["volumes"][0]["id"].to_string())];
    play(&client, "volumes", &made).await;
    sim.until(on_demand, "actual_status", "running").await;
    play(&client, "containers made anew", &numbers).await;
    sim.until_told(on_demand, "remake").await;
    sim.until(on_demand, "actual_status", "running").await;
    let hash = template(&client).await;
    let of_template = vec![("ID", on_demand.to_string()), ("HASH", hash)];
    play(&client, "templates of instances", &of_template).await;
    sim.until(on_demand, "image_uuid", "foo").await;
    sim.until(on_demand, "actual_status", "running").await;
    play(&client, "ends", &numbers).await;
    sim.close().await;
}

/// Who listens nowhere is asked three times.
#[tokio::test]
async fn a_refused_connection_is_tried_again_and_ends_in_a_traceback() {
    let sim = Sim::open().await;
    let Some(client) = Client::find(&sim) else {
        return sim.close().await;
    };
    let started = Instant::now();
    let ran = client
        .run_at("http://127.0.0.1:9", Some("a"), &["show", "user"])
        .await;
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("Traceback"), "{}", ran.stderr);
    assert!(started.elapsed().as_millis() >= 370, "0.15 s and 0.22 s");
    sim.close().await;
}

#[tokio::test]
async fn a_key_that_is_refused_is_told_with_its_source() {
    let sim = Sim::open().await;
    let Some(client) = Client::find(&sim) else {
        return sim.close().await;
    };
    first_use(&client).await;
    let refused =
        json!({"server_error": 1, "server_error_status": 401, "server_error_body": "invalid_key"});
    sim.sim("faults", refused).await;
    let ran = run(&client, "show user", &Numbers::new()).await;
    assert_eq!((ran.seen.len(), ran.code), (1, 0), "{}", ran.stderr);
    assert!(ran.stderr.contains("Invalid user key"), "{}", ran.stderr);
    assert!(ran.stderr.contains("VAST_API_KEY"), "{}", ran.stderr);
    sim.close().await;
}

#[tokio::test]
async fn the_key_of_a_login_that_is_over_is_thrown_away_and_the_other_one_taken() {
    let sim = Sim::open().await;
    let Some(client) = Client::find(&sim) else {
        return sim.close().await;
    };
    first_use(&client).await;
    let config = client.home.path().join("config/vastai");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("vast_api_key"), "a").unwrap();
    let of_login = config.join("vast_tfa_key");
    std::fs::write(&of_login, "b").unwrap();
    let over = json!({"server_error": 1, "server_error_status": 404, "server_error_body": "session_expired"});
    sim.sim("faults", over).await;
    let ran = client.run_at(&sim.url, None, &["show", "user"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("501"), "{}{}", ran.stdout, ran.stderr);
    let answers: Vec<u16> = ran.seen.iter().map(|seen| seen.status).collect();
    assert_eq!(answers, [404, 200]);
    assert!(!of_login.exists());
    sim.close().await;
}

#[tokio::test]
async fn errors_and_retries() {
    let sim = Sim::open().await;
    let Some(client) = Client::find(&sim) else {
        return sim.close().await;
    };
    first_use(&client).await;
    // What goes wrong, the command, how often it asks, and what it says.
    let user = "show user";
    let offers = "search offers";
    let cases = [
        (
            json!({"too_many_requests": 9}),
            user,
            3,
            "error 429: (no detail message supplied)",
        ),
        (
            json!({"too_many_requests": 9, "too_many_body": "detail", "retry_after_s": 1}),
            user,
            3,
            "error 429: None",
        ),
        (
            json!({"too_many_requests": 9, "retry_after_s": 61}),
            user,
            1,
            "error 429",
        ),
        (
            json!({"too_many_requests": 9, "too_many_body": "search_quota"}),
            offers,
            1,
            "Daily search quota exceeded.",
        ),
        (
            json!({"server_error": 1, "server_error_status": 503}),
            user,
            2,
            "501",
        ),
        (
            json!({"server_error": 9, "server_error_status": 500, "server_error_body": "text"}),
            user,
            1,
            "error 500",
        ),
        (
            json!({"server_error": 2, "server_error_status": 502}),
            user,
            3,
            "501",
        ),
        (json!({"says_no": 1}), user, 1, "Billed Expected"),
    ];
    for (fault, command, asks, says) in cases {
        sim.sim("faults", fault.clone()).await;
        let started = Instant::now();
        let ran = run(&client, command, &Vec::new()).await;
        assert_eq!(
            ran.seen.len(),
            asks,
            "{fault}: {}{}",
            ran.stdout,
            ran.stderr
        );
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.contains(says) && ran.code == 0, "{fault}: {said}");
        // 0.15 s, and half as much again, unless it is told how long.
        for (tries, least_ms) in ran.seen.windows(2).zip([150, 225]) {
            let waited_ms = tries[1].at_ms - tries[0].at_ms;
            assert!(waited_ms >= least_ms, "{fault}: {waited_ms} ms");
        }
        if fault["retry_after_s"] == 1 {
            assert!(started.elapsed().as_secs() >= 2, "it waits as it was told");
        }
        sim.call("DELETE", "/sim/faults", Value::Null).await;
    }
    // A create whose answer is an error of the gateway is sent again: undone here, done twice in bad luck.
    sim.sim(
        "faults",
        json!({"server_error": 1, "only": "PUT /api/v0/asks/"}),
    )
    .await;
    let offer = sim.offer(json!({"num_gpus": {"eq": 1}})).await["id"].to_string();
    let ran = run(
        &client,
        "create instance OFFER --image u",
        &vec![("OFFER", offer)],
    )
    .await;
    assert_eq!(
        ran.seen.iter().filter(|seen| seen.method == "PUT").count(),
        2
    );
    assert!(ran.stdout.contains("Started."), "{}", ran.stdout);

    let id = sim.running(None).await;
    sim.sim("faults", json!({"result_delay_s": 1000.0})).await;
    let never = run(&client, "logs ID", &vec![("ID", id.to_string())]).await;
    let polls: Vec<&SeenRequest> = never
        .seen
        .iter()
        .filter(|seen| seen.path.starts_with("/results/"))
        .collect();
    assert_eq!(polls.len(), 30, "{}", never.stderr);
    assert!(
        polls
            .iter()
            .all(|poll| !poll.with_key && poll.status == 404)
    );
    assert_eq!(never.code, 1);
    sim.close().await;
}
