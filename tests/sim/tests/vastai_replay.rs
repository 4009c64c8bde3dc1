//! The wire log of the official client (`vastai==1.9.1`), line by line: commands in, the requests it makes and what it prints out.
//!
//! Needs the client, as `vastai_client.rs` does.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may hope, and tell"
)]

mod support;

use std::time::Instant;

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use spotter_sim::world::SeenRequest;
use support::{
    Sim,
    vastai::{Client, Ran},
};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBlPBq6NbAFE8Gw4YVYpvbwYlQlGuVVhTXcIhlwBaqJp me@laptop";

/// One line of the log: command, request, its body, and a text that is printed (on stdout or stderr).
struct Line {
    command: &'static str,
    request: &'static str,
    body: Value,
    prints: &'static str,
}

fn line(command: &'static str, request: &'static str, body: Value, prints: &'static str) -> Line {
    Line {
        command,
        request,
        body,
        prints,
    }
}

/// Method, path and query as people write them.
fn spoken(seen: &SeenRequest) -> String {
    let query = seen.query.replace('+', " ");
    let query = percent_decode_str(&query).decode_utf8().unwrap();
    match query.is_empty() {
        true => format!("{} {}", seen.method, seen.path),
        false => format!("{} {}?{query}", seen.method, seen.path),
    }
}

fn with_numbers(text: &str, numbers: &[(&str, String)]) -> String {
    numbers
        .iter()
        .fold(text.to_owned(), |text, (name, number)| {
            text.replace(name, number)
        })
}

/// The same in JSON, where `"#NAME"` is the number and `"NAME"` its text.
fn unquoted(text: &str, numbers: &[(&str, String)]) -> String {
    let bare: Vec<(String, &String)> = numbers
        .iter()
        .map(|(name, number)| (format!("\"#{name}\""), number))
        .collect();
    let text = bare.iter().fold(text.to_owned(), |text, (name, number)| {
        text.replace(name.as_str(), number)
    });
    with_numbers(&text, numbers)
}

/// Runs a command in which names stand for numbers.
async fn run(client: &Client<'_>, command: &str, numbers: &[(&str, String)]) -> Ran {
    let command = with_numbers(command, numbers);
    let words = shell_words::split(&command).unwrap();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    client.run(&words).await
}

async fn replay(client: &Client<'_>, numbers: &[(&str, String)], lines: Vec<Line>) {
    for line in lines {
        let ran = run(client, line.command, numbers).await;
        let said = format!("{}{}", ran.stdout, ran.stderr);
        let wanted = with_numbers(line.request, numbers);
        let body = unquoted(&line.body.to_string(), numbers);
        let body: Value = serde_json::from_str(&body).unwrap();
        let spoken: Vec<String> = ran.seen.iter().map(spoken).collect();
        let place = spoken.iter().position(|request| *request == wanted);
        let place = place.unwrap_or_else(|| {
            panic!(
                "{}\nwanted {wanted}\nmade {spoken:#?}\n{said}",
                line.command
            )
        });
        assert_eq!(ran.seen[place].body, body, "{}", line.command);
        assert_eq!(ran.seen[place].user_agent, "vastai-cli/1.9.1");
        assert!(ran.seen[place].with_key, "{}", line.command);
        let prints = with_numbers(line.prints, numbers);
        assert!(
            said.contains(&prints),
            "{}: {prints:?} is not in {said}",
            line.command
        );
    }
}

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

/// The default conditions with those of a query, and what every search ends with.
fn search(query: Value) -> Value {
    let mut body = json!({
        "verified": {"eq": true}, "external": {"eq": false}, "rentable": {"eq": true},
        "order": [["score", "desc"]], "type": "on-demand", "allocated_storage": 5.0,
    });
    for (key, value) in query.as_object().unwrap() {
        match value.is_null() {
            true => drop(body.as_object_mut().unwrap().remove(key)),
            false => body[key] = value.clone(),
        }
    }
    body
}

#[tokio::test]
async fn searches() {
    let sim = Sim::open().await;
    let Some(client) = Client::find(&sim) else {
        return sim.close().await;
    };
    first_use(&client).await;
    let bundles = "POST /api/v0/bundles/";
    replay(&client, &[], vec![
        line(
            "search offers 'gpu_name=RTX_4090 num_gpus=1'",
            bundles,
            search(json!({"gpu_name": {"eq": "RTX 4090"}, "num_gpus": {"eq": "1"}})),
            "RTX_4090",
        ),
        line(
            "search offers 'reliability > 0.98 num_gpus>=4 gpu_ram>=24 cpu_ram>=64 duration>=3 verified=any' -t bid -o 'dph'",
            bundles,
            search(json!({
                "verified": null, "reliability": {"gt": "0.98"}, "num_gpus": {"gte": "4"},
                "gpu_ram": {"gte": 24000.0}, "cpu_ram": {"gte": 64000.0}, "duration": {"gte": 259200.0},
                "order": [["dph_total", "asc"]], "type": "bid",
            })),
            "H100_SXM",
        ),
        line(
            r#"search offers 'gpu_name in ["RTX 4090","RTX 3090"] geolocation notin [CN,VN] driver_version>=535.86.05 cuda_vers>=12.4' -o 'dph_total,score-' --limit 7 --storage 100 --raw"#,
            bundles,
            search(json!({
                "gpu_name": {"in": ["RTX 4090", "RTX 3090"]}, "geolocation": {"notin": ["CN", "VN"]},
                "driver_version": {"gte": 535086005}, "cuda_max_good": {"gte": "12.4"},
                "order": [["dph_total", "asc"], ["score", "desc"]], "limit": 7, "allocated_storage": 100.0,
            })),
            "\"RTX 3090\"",
        ),
        line(
            r#"search offers -n 'gpu_name="RTX 4090" dph<=0.5 rented=any external=any datacenter=true' -t reserved"#,
            bundles,
            search(json!({
                "verified": null, "external": null, "rentable": null, "gpu_name": {"eq": "RTX 4090"},
                "dph_total": {"lte": "0.5"}, "datacenter": {"eq": true}, "type": "reserved",
            })),
            "RTX_4090",
        ),
        line(
            "search offers 'bogus_field>=1 num_gpus=2' -o bogus-",
            bundles,
            search(json!({
                "bogus_field": {"gte": "1"}, "num_gpus": {"eq": "2"}, "order": [["bogus", "desc"]],
            })),
            "Unrecognized field: bogus_field",
        ),
        line(
            "search offers -n",
            bundles,
            search(json!({"verified": null, "external": null, "rentable": null})),
            "RTX_3090",
        ),
        line("search offers -i", bundles, search(json!({"type": "bid"})), "RTX_3090"),
        line("search offers -b", bundles, search(json!({"type": "bid"})), "RTX_3090"),
        line(
            "search offers 'gpu_name in [RTX_4090,RTX_3090] static_ip=true inet_down>=200' --new",
            "PUT /api/v0/search/asks/",
            json!({"select_cols": ["*"], "q": search(json!({
                "gpu_name": {"in": ["RTX 4090", "RTX 3090"]}, "static_ip": {"eq": true},
                "inet_down": {"gte": "200"},
            }))}),
            "RTX_4090",
        ),
        line(
            "search volumes 'disk_space>=50'",
            "POST /api/v0/volumes/search/",
            json!({
                "verified": {"eq": true}, "external": {"eq": false}, "disk_space": {"gte": "50"},
                "order": [["score", "desc"]], "allocated_storage": 1.0,
            }),
            "",
        ),
        line(
            "search templates 'count_created > 100'",
            r#"GET /api/v0/template/?select_cols=["*"]&select_filters={"count_created": {"gt": "100"}}"#,
            Value::Null,
            "",
        ),
    ])
    .await;

    // `verified=None` is sent as null, which finds everything.
    let none = run(
        &client,
        "search offers 'verified=None rented=False disk_space>200 reliability2!=0.5'",
        &[],
    )
    .await;
    let body = &none.sent[0].2;
    assert_eq!(
        (&body["verified"], &body["reliability2"]),
        (&json!({"eq": null}), &json!({"neq": "0.5"}))
    );
    assert!(none.stderr.contains("reliability2"), "{}", none.stderr);

    let blank = run(&client, "search offers 'num_gpus=='", &[]).await;
    assert_eq!((blank.code, blank.seen.len()), (1, 0), "{}", blank.stdout);
    sim.close().await;
}

/// The body of a create with some keys changed; null takes a key away.
fn create(changes: Value) -> Value {
    let mut body = json!({
        "client_id": "me", "image": "u", "env": {}, "price": null, "disk": 10, "label": null, "extra": null,
        "onstart": null, "image_login": null, "python_utf8": false, "lang_utf8": false, "use_jupyter_lab": false,
        "jupyter_dir": null, "force": false, "cancel_unavail": false, "template_hash_id": null, "user": null,
        "runtype": "ssh",
    });
    for (key, value) in changes.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
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
    let template = run(
        &client,
        "create template --name t --image u --ssh --direct --env '-e A=1 -p 80:80' --disk_space 40",
        &[],
    )
    .await;
    assert_eq!(
        template.sent.last().unwrap().2,
        json!({
            "name": "t", "image": "u", "tag": null, "href": null, "repo": null, "env": "-e A=1 -p 80:80",
            "onstart": null, "jup_direct": false, "ssh_direct": true, "use_jupyter_lab": false, "runtype": "ssh",
            "use_ssh": true, "jupyter_dir": null, "docker_login_repo": null,
            "extra_filters": {"verified": {"eq": true}, "external": {"eq": false}, "rentable": {"eq": true}},
            "recommended_disk_space": "40", "readme": null, "readme_visible": true, "desc": null, "private": true,
        }),
        "{}",
        template.stderr
    );
    let (_, list) = sim.call("GET", "/api/v0/template/", Value::Null).await;
    let hash = list["templates"][0]["hash_id"].as_str().unwrap().to_owned();

    let mut without_runtype =
        create(json!({"image": null, "disk": 64.0, "template_hash_id": "HASH"}));
    without_runtype.as_object_mut().unwrap().remove("runtype");
    let cases = vec![
        (
            "--image pytorch/pytorch:latest --disk 40 --ssh --direct --bid_price 0.75 --env '-e FOO=bar -p 8080:8080 -p 72299:72299/udp -h myhost' --label job-1 --onstart-cmd 'touch /root/x'",
            create(json!({
                "image": "pytorch/pytorch:latest", "disk": 40.0, "price": 0.75, "label": "job-1",
                "env": {"FOO": "bar", "-p 8080:8080": "1", "-p 72299:72299/udp": "1", "-h": "myhost"},
                "onstart": "touch /root/x", "runtype": "ssh_direc ssh_proxy",
            })),
        ),
        ("--image u --ssh", create(json!({"runtype": "ssh_proxy"}))),
        ("--image u --direct", create(json!({}))),
        ("--image u", create(json!({}))),
        (
            "--image u --jupyter --jupyter-lab --jupyter-dir /nb",
            create(json!({
                "use_jupyter_lab": true, "jupyter_dir": "/nb", "runtype": "jupyter_proxy ssh_proxy",
            })),
        ),
        (
            "--image u --jupyter --direct",
            create(json!({"runtype": "jupyter_direc ssh_direc ssh_proxy"})),
        ),
        (
            "--image u --disk 20 --args python3 -c 'print(1)'",
            create(json!({"disk": 20.0, "runtype": "args", "args": ["python3", "-c", "print(1)"]})),
        ),
        (
            "--image u --ssh --args a b",
            create(json!({"runtype": "ssh_proxy", "args": ["a", "b"]})),
        ),
        ("--template_hash HASH --disk 64", without_runtype),
        (
            "--image u --onstart SCRIPT",
            create(json!({"onstart": "echo file\n"})),
        ),
        (
            "--image u --create-volume 99 --mount-path /data --volume-size 30 --volume-label v1",
            create(json!({"volume_info": {
                "mount_path": "/data", "create_new": true, "volume_id": 99, "name": "v1", "size": 30,
            }})),
        ),
        (
            "--image u --link-volume 98 --mount-path /data",
            create(
                json!({"volume_info": {"mount_path": "/data", "create_new": false, "volume_id": 98}}),
            ),
        ),
        (
            "--image u --env '-e BAZ=\"a b\" -e X=1=2 -v V.881:/mnt --foo bar -p 80:80/tcp -n net1 -e NOEQ'",
            create(json!({"env": {
                "BAZ": "a b", "X": "1=2", "-v V.881:/mnt": "1", "-p 80:80/tcp": "1", "-n net1": "1",
            }})),
        ),
    ];
    for (args, body) in cases {
        let offer = sim.offer(json!({"num_gpus": {"eq": 1}})).await["id"].to_string();
        let numbers = [
            ("OFFER", offer.clone()),
            ("HASH", hash.clone()),
            ("SCRIPT", script.display().to_string()),
        ];
        let command = format!("create instance OFFER {args}");
        let ran = run(&client, &command, &numbers).await;
        let body = with_numbers(&body.to_string(), &numbers);
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (spoken(&ran.seen[0]), &ran.seen[0].body),
            (format!("PUT /api/v0/asks/{offer}/"), &body),
            "{args}"
        );
        assert!(
            ran.stdout.contains("Started. {"),
            "{args}: {}{}",
            ran.stdout,
            ran.stderr
        );
    }
    // What the template says became the instance's.
    let (_, list) = sim.call("GET", "/sim/state", Value::Null).await;
    let made = list["instances"].as_array().unwrap();
    let of_template = made.iter().find(|row| row["disk_space"] == 64.0).unwrap();
    assert_eq!(
        of_template["extra_env"],
        json!([["A", "1"], ["-p 80:80", "1"]])
    );

    let refused = run(
        &client,
        "create instance 1 --image u --jupyter --args a",
        &[],
    )
    .await;
    assert!(
        refused.seen.is_empty(),
        "it is refused on the laptop: {}",
        refused.stderr
    );

    let two: Vec<u64> = {
        let (_, found) = sim
            .call(
                "POST",
                "/api/v0/bundles/",
                json!({"num_gpus": {"eq": 1}, "order": [["dph_total", "asc"]]}),
            )
            .await;
        let rows = found["offers"].as_array().unwrap();
        rows.iter()
            .take(2)
            .map(|row| row["id"].as_u64().unwrap())
            .collect()
    };
    let numbers = [("ONE", two[0].to_string()), ("TWO", two[1].to_string())];
    let bulk = run(
        &client,
        "create instances ONE TWO --image u --ssh --bid_price 0.75",
        &numbers,
    )
    .await;
    assert_eq!(
        spoken(&bulk.seen[0]),
        "POST /api/v0/asks/bulk/",
        "{}",
        bulk.stderr
    );
    assert_eq!(
        bulk.seen[0].body,
        create(json!({"price": 0.75, "runtype": "ssh_proxy", "ids": two}))
    );
    let launch = run(
        &client,
        "launch instance -g RTX_4090 -n 1 -i u --disk 30 --ssh --direct --env '-e A=1'",
        &[],
    )
    .await;
    assert_eq!(
        spoken(&launch.seen[0]),
        "PUT /api/v0/launch_instance/",
        "{}",
        launch.stderr
    );
    assert_eq!(
        launch.seen[0].body["q"],
        search(json!({
            "rented": {"eq": false}, "num_gpus": {"eq": "1"}, "gpu_name": {"eq": "RTX 4090"},
            "disk_space": {"gte": "30.0"}, "limit": 3, "allocated_storage": 30.0,
        }))
    );
    assert_eq!(
        launch.seen[0].status, 200,
        "{}{}",
        launch.stdout, launch.stderr
    );
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
    sim.call(
        "PUT",
        &format!("/api/v0/instances/{id}/"),
        json!({"label": "job-1"}),
    )
    .await;
    let numbers = [("ID", id.to_string())];
    const ALL: &str = r#"GET /api/v1/instances/?select_filters={}&order_by=[{"col": "id", "dir": "asc"}]&limit=25"#;
    let columns = r#"select_cols=["id", "actual_status", "label", "num_gpus", "gpu_name", "gpu_util", "disk_space", "disk_usage", "disk_util", "volume_info", "dph_total", "image_uuid", "start_date", "verification"]"#;
    let shown = run(&client, "show instances", &numbers).await;
    let requests: Vec<String> = shown.seen.iter().map(spoken).collect();
    assert_eq!(
        requests,
        [
            "GET /api/v0/instances/filters/".to_owned(),
            format!("{ALL}&{columns}")
        ]
    );
    assert!(
        shown.stdout.contains("job-1"),
        "{}{}",
        shown.stdout,
        shown.stderr
    );
    replay(&client, &numbers, vec![
        line("show instances --raw", ALL, Value::Null, "\"extra_env\""),
        line(
            "show instances --label job-1 --raw",
            r#"GET /api/v1/instances/?select_filters={"label": {"in": ["job-1"]}}&order_by=[{"col": "id", "dir": "asc"}]&limit=25"#,
            Value::Null,
            "\"label\": \"job-1\"",
        ),
        line(
            "show instances --status running loading --raw",
            r#"GET /api/v1/instances/?select_filters={"actual_status": {"in": ["running", "loading"]}}&order_by=[{"col": "id", "dir": "asc"}]&limit=25"#,
            Value::Null,
            "\"actual_status\": \"running\"",
        ),
        line(
            "show instances --gpu-name RTX_4090 --raw",
            r#"GET /api/v1/instances/?select_filters={"gpu_name": {"in": ["RTX_4090"]}}&order_by=[{"col": "id", "dir": "asc"}]&limit=25"#,
            Value::Null,
            // The underscore is not translated here, and so nothing is found.
            "[]",
        ),
        line("show instance ID", "GET /api/v0/instances/ID/?owner=me", Value::Null, "ID"),
        line("ssh-url ID", ALL, Value::Null, "ssh://root@127.0.0.1:"),
        line("show user", "GET /api/v0/users/current", Value::Null, "501"),
        line("show ssh-keys", "GET /api/v0/ssh/", Value::Null, "me@laptop"),
        line("show env-vars", "GET /api/v0/secrets/", Value::Null, ""),
        line("show api-keys", "GET /api/v0/auth/apikeys/", Value::Null, "apikeys"),
        line("show deposit ID", "GET /api/v0/instances/balance/ID/?owner=me", Value::Null, "refundable_deposit"),
        line("show volumes", "GET /api/v0/volumes?owner=me&type=all_volume", Value::Null, ""),
        line("show connections", "GET /api/v0/users/cloud_integrations/", Value::Null, ""),
        line("show scheduled-jobs", "GET /api/v0/commands/schedule_job/", Value::Null, ""),
        line(
            "reports 41860",
            "GET /api/v0/machines/41860/reports/",
            json!({"machine_id": 41860}),
            "[]",
        ),
    ])
    .await;
    let gone = run(&client, "show instance 555", &[]).await;
    assert_eq!(gone.code, 1, "{}{}", gone.stdout, gone.stderr);
    let gone = run(&client, "show instance 555 --raw", &[]).await;
    assert_eq!((gone.code, gone.json()), (0, json!({"instances": null})));
    let gone = run(&client, "ssh-url 555", &[]).await;
    assert_eq!(gone.code, 1, "{}{}", gone.stdout, gone.stderr);
    let charges = run(&client, "show invoices-v1 -c --raw", &[]).await;
    let request = charges.seen.last().map(spoken).unwrap();
    assert!(
        request.starts_with("GET /api/v0/charges/?select_filters={\"day\""),
        "{request}"
    );
    assert!(
        request.ends_with("&latest_first=false&limit=20&format=table"),
        "{request}"
    );
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
    std::fs::write(client.home.path().join("k.pub"), format!("{KEY}\n")).unwrap();
    let (bid, on_demand) = (sim.running(Some(0.75)).await, sim.running(None).await);
    let numbers = [
        ("BID", bid.to_string()),
        ("ID", on_demand.to_string()),
        (
            "KEYFILE",
            client.home.path().join("k.pub").display().to_string(),
        ),
    ];
    let key = KEY.replace("IBlP", "IBlR");
    let attach: &'static str = Box::leak(format!("attach ssh ID '{key}'").into_boxed_str());
    replay(&client, &numbers, vec![
        line(
            "label instance ID x",
            "PUT /api/v0/instances/ID/",
            json!({"label": "x"}),
            "label for ID set to x",
        ),
        line(
            "change bid BID --price 0.8",
            "PUT /api/v0/instances/bid_price/BID/",
            json!({"client_id": "me", "price": 0.8}),
            "bid price changed",
        ),
        line(
            "change bid BID",
            "PUT /api/v0/instances/bid_price/BID/",
            json!({"client_id": "me", "price": null}),
            "bid price changed",
        ),
        line(
            "prepay instance ID 10",
            "PUT /api/v0/instances/prepay/ID/",
            json!({"amount": 10.0}),
            "prepaid for",
        ),
        line(
            "create ssh-key 'ssh-ed25519 AAAAC3 me@x'",
            "POST /api/v0/ssh/",
            json!({"ssh_key": "ssh-ed25519 AAAAC3 me@x"}),
            "",
        ),
        // The trap: the path itself is sent.
        line("create ssh-key ./k.pub", "POST /api/v0/ssh/", json!({"ssh_key": "./k.pub"}), "400"),
        line(attach, "POST /api/v0/instances/ID/ssh/", json!({"ssh_key": key}), ""),
        line(
            "attach ssh ID KEYFILE",
            "POST /api/v0/instances/ID/ssh/",
            json!({"ssh_key": format!("{KEY}\n")}),
            "",
        ),
        line("delete ssh-key 1", "DELETE /api/v0/ssh/1/", json!({}), ""),
        line("logs ID", "PUT /api/v0/instances/request_logs/ID/", json!({}), "image i:1"),
        line(
            "logs ID --tail 100 --filter running --daemon-logs",
            "PUT /api/v0/instances/request_logs/ID/",
            json!({"filter": "running", "tail": "100", "daemon_logs": "true"}),
            "success, running i_1/ssh",
        ),
        // A bug of this client: it takes the text that it fetched for an object.
        line(
            "execute ID 'ls -l'",
            "PUT /api/v0/instances/command/ID/",
            json!({"command": "ls -l"}),
            "Traceback",
        ),
        line(
            "copy ID:/a/ BID:/b/",
            "PUT /api/v0/commands/copy_direct/",
            json!({"client_id": "me", "src_id": "ID", "dst_id": "BID", "src_path": "/a/", "dst_path": "/b/"}),
            "",
        ),
        line(
            "cancel copy ID",
            "DELETE /api/v0/commands/copy_direct/",
            json!({"client_id": "me", "dst_id": "ID"}),
            "",
        ),
        line(
            "cloud copy --src /f --dst /w --instance ID --connection 1001 --transfer 'Instance To Cloud'",
            "POST /api/v0/commands/rclone/",
            json!({
                "src": "/f", "dst": "/w", "instance_id": "ID", "selected": "1001",
                "transfer": "Instance To Cloud", "flags": [],
            }),
            "",
        ),
        line("create env-var A b", "POST /api/v0/secrets/", json!({"key": "A", "value": "b"}), ""),
        line("update env-var A c", "PUT /api/v0/secrets/", json!({"key": "A", "value": "c"}), ""),
        line("delete env-var A", "DELETE /api/v0/secrets/", json!({"key": "A"}), ""),
        line(
            "change bid BID --price 0.3 --schedule WEEKLY --start_date 2026-12-01 --end_date 2026-12-20 --day 3 --hour 4",
            "POST /api/v0/commands/schedule_job/",
            json!({
                "start_time": 1796083200.0, "end_time": 1797724800.0,
                "api_endpoint": "/api/v0/instances/bid_price/BID/", "request_method": "PUT",
                "request_body": {"client_id": "me", "price": 0.3, "instance_id": "#BID"},
                "day_of_the_week": 3, "hour_of_the_day": 4, "frequency": "WEEKLY", "instance_id": "#BID",
            }),
            "",
        ),
        line(
            "reboot instance ID",
            "PUT /api/v0/instances/reboot/ID/",
            json!({}),
            "Rebooting instance ID",
        ),
    ])
    .await;
    let detach = run(&client, "detach ssh ID 12", &numbers).await;
    assert_eq!(
        spoken(&detach.seen[0]),
        format!("DELETE /api/v0/instances/{on_demand}/ssh/12/")
    );
    sim.until(on_demand, "actual_status", "running").await;
    replay(
        &client,
        &numbers,
        vec![line(
            "recycle instance ID",
            "PUT /api/v0/instances/recycle/ID/",
            json!({}),
            "Recycling instance ID",
        )],
    )
    .await;
    sim.until_told(on_demand, "remake").await;
    sim.until(on_demand, "actual_status", "running").await;
    replay(
        &client,
        &numbers,
        vec![
            line(
                "stop instance ID",
                "PUT /api/v0/instances/ID/",
                json!({"state": "stopped"}),
                "stopping instance ID.",
            ),
            line(
                "start instance ID",
                "PUT /api/v0/instances/ID/",
                json!({"state": "running"}),
                "starting instance ID.",
            ),
            line(
                "stop instances ID BID",
                "PUT /api/v0/instances/",
                json!({"state": "stopped", "ids": ["#ID", "#BID"]}),
                "",
            ),
            line(
                "destroy instance ID -y",
                "DELETE /api/v0/instances/ID/",
                json!({}),
                "destroying instance ID.",
            ),
            line(
                "destroy instance ID -y",
                "DELETE /api/v0/instances/ID/",
                json!({}),
                "404",
            ),
            line(
                "destroy instances BID -y",
                "DELETE /api/v0/instances/",
                json!({"instance_ids": ["#BID"]}),
                "",
            ),
        ],
    )
    .await;
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
        (json!({"says_no": 1}), user, 1, ""),
    ];
    for (fault, command, asks, says) in cases {
        sim.sim("faults", fault.clone()).await;
        let started = Instant::now();
        let ran = run(&client, command, &[]).await;
        assert_eq!(
            ran.seen.len(),
            asks,
            "{fault}: {}{}",
            ran.stdout,
            ran.stderr
        );
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.contains(says) && ran.code == 0, "{fault}: {said}");
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
        &[("OFFER", offer)],
    )
    .await;
    assert_eq!(
        ran.seen.iter().filter(|seen| seen.method == "PUT").count(),
        2
    );
    assert!(ran.stdout.contains("Started."), "{}", ran.stdout);

    let id = sim.running(None).await;
    sim.sim("faults", json!({"result_delay_s": 1000.0})).await;
    let never = run(&client, "logs ID", &[("ID", id.to_string())]).await;
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
