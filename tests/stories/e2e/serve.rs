//! `spotter serve` beside a run: a real Prometheus scrapes it, a Python client reads it by reflection alone, a receiver of OpenTelemetry
//! is pushed to, and a real browser shows its page; who may not ask is not answered.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    others::Certified,
    world::{Background, Tier, Training, World, on},
};

#[test]
fn other_tools_read_all_runs_from_one_process_that_only_looks() {
    on(Tier::One, read);
}

#[test]
fn a_browser_shows_runs_and_curves_on_one_page() {
    on(Tier::One, browse);
}

#[test]
fn whoever_may_not_ask_is_not_answered() {
    on(Tier::One, guarded);
}

/// A `spotter serve` that answers.
struct Server {
    process: Background,
    url: String,
}

impl Server {
    fn start(world: &World, name: &str, more: &[&str]) -> Server {
        let mut args = vec!["--json", "serve", "--listen", "127.0.0.1:0"];
        args.extend(more);
        let process = world.behind(name, world.spotter(&args));
        let url = world.until("the address of `serve`", || {
            let text = process.text();
            let line = text.lines().find(|line| line.starts_with('{'))?;
            let said: Value = serde_json::from_str(line).ok()?;
            Some(said["url"].as_str()?.to_owned())
        });
        Server { process, url }
    }

    fn address(&self) -> &str {
        let (_, rest) = self.url.split_once("://").unwrap();
        rest.trim_end_matches('/')
    }

    /// Body and status of an answer.
    fn ask(&self, path: &str, more: &[&str]) -> (String, u16) {
        let said = Command::new("curl")
            .args([
                "--silent",
                "--max-time",
                "60",
                "--write-out",
                "\n%{http_code}",
            ])
            .args(more)
            .arg(format!("{}{path}", self.url))
            .output()
            .unwrap();
        let text = String::from_utf8(said.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (body.to_owned(), status.parse().unwrap())
    }

    fn json(&self, path: &str) -> Value {
        let (body, status) = self.ask(path, &[]);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }
}

fn read(world: &World) {
    // What has ended stays; what goes on is followed.
    world.training(&Training::interruptible("small", 25));
    world.ok(&["run", "small.yaml"]);
    world.training(&Training::interruptible("long", 100_000));
    world.ok(&["run", "long.yaml", "--detach"]);
    world.until_step("long", 1, 0);

    let receiver = Receiver::start(world);
    let otlp = receiver.as_ref().map(|receiver| receiver.url.clone());
    let more = otlp.iter().flat_map(|url| ["--otlp", url.as_str()]);
    let mut server = Server::start(world, "serve", &more.collect::<Vec<_>>());

    let text = world.until("a GPU in /metrics", || {
        let (text, status) = server.ask("metrics", &[]);
        assert_eq!(status, 200, "{text}");
        text.contains("DCGM_FI_DEV_GPU_UTIL{").then_some(text)
    });
    for line in [
        "spotter_record_readable 1",
        "spotter_run_info{run=\"small\",attempt=\"1\",state=\"done\"",
        "spotter_run_over{run=\"small\",attempt=\"1\"} 1",
        "spotter_run_reachable{run=\"long\",attempt=\"1\"} 1",
        "DCGM_FI_DEV_FB_USED{run=\"long\",attempt=\"1\",gpu=\"0\",UUID=\"",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(
        !text.contains("DCGM_FI_DEV_GPU_UTIL{run=\"small\""),
        "{text}"
    );

    let run = world.until("steps in the curve of the run", || {
        let run = server.json("api/runs/long");
        (run["loss"]["points"].as_array()?.len() > 1).then_some(run)
    });
    assert_eq!(run["state"]["text"], "RUNNING", "{run}");
    assert!(!run["log"].as_array().unwrap().is_empty(), "{run}");
    let small = world.until("the log of a run without a box", || {
        let run = server.json("api/runs/small");
        (!run["log"].as_array()?.is_empty()).then_some(run)
    });
    assert!(
        !small["checkpoints"].as_array().unwrap().is_empty(),
        "{small}"
    );
    assert_eq!(server.ask("api/runs/other", &[]).1, 404);
    assert_eq!(server.ask("other", &[]).1, 404);
    // Nothing can be done from here.
    assert_eq!(server.ask("api/runs/long", &["--request", "DELETE"]).1, 405);
    assert_eq!(server.ask("metrics", &["--data", "x"]).1, 405);

    scraped(world, &server);
    python(world, &server, &[]);
    if let Some(receiver) = receiver {
        receiver.has(world);
    }

    // It looks and touches nothing: the run goes on, and the server ends in order.
    let pid = server.process.id();
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(server.process.wait(), 0, "{}", server.process.text());
    assert_eq!(world.status("long")["state"], "running");
    world.ok(&["stop", "long"]);
    world.assert_nothing_rented();
}

/// A real Prometheus reads it.
fn scraped(world: &World, server: &Server) {
    if Command::new("prometheus")
        .arg("--version")
        .output()
        .is_err()
    {
        return stories::skip::skip("prometheus is not installed: apt-get install prometheus");
    }
    let (text, _) = server.ask("metrics", &[]);
    world.write("metrics.txt", &text);
    let checked = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(fs::File::open(world.work().join("metrics.txt")).unwrap())
        .output()
        .unwrap();
    // Names of others are not as it likes them; what it cannot read is another word.
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(!said.contains("error while linting"), "{said}");

    world.write(
        "prometheus.yaml",
        &format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: spotter\n  static_configs: [{{targets: ['{}']}}]\n",
            server.address()
        ),
    );
    let mut command = Command::new("prometheus");
    command
        .arg("--config.file=prometheus.yaml")
        .arg("--storage.tsdb.path=prometheus")
        .arg("--web.listen-address=127.0.0.1:0")
        .current_dir(world.work())
        .stdin(Stdio::null());
    let prometheus = world.behind("prometheus", command);
    let address = world.until("the port of Prometheus", || {
        let text = prometheus.text();
        let (_, rest) = text.rsplit_once("address=127.0.0.1:")?;
        let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
        (port != "0" && rest.len() > port.len()).then(|| format!("127.0.0.1:{port}"))
    });
    let found = world.until("GPUs in Prometheus", || {
        let said = Command::new("curl")
            .args(["--silent", "--max-time", "60", "--get", "--data-urlencode"])
            .arg("query=DCGM_FI_DEV_FB_USED{run=\"long\"} and on(run) spotter_run_reachable == 1")
            .arg(format!("http://{address}/api/v1/query"))
            .output()
            .unwrap();
        let said: Value = serde_json::from_slice(&said.stdout).ok()?;
        let found = said["data"]["result"].as_array()?.clone();
        (!found.is_empty()).then_some(found)
    });
    assert_eq!(found.len(), 1, "{found:?}");
    let labels = &found[0]["metric"];
    assert_eq!(
        (labels["gpu"].as_str(), labels["attempt"].as_str()),
        (Some("0"), Some("1"))
    );
    let value: f64 = found[0]["value"][1].as_str().unwrap().parse().unwrap();
    assert!(value > 0.0, "{found:?}");
}

/// The Python of the tests, if it has what the module names.
fn python_with(module: &str) -> Option<PathBuf> {
    let python = stories::workspace().join("target/venv/bin/python");
    let has = Command::new(&python)
        .args(["-c", &format!("import {module}")])
        .stderr(Stdio::null())
        .status();
    if has.is_ok_and(|status| status.success()) {
        return Some(python);
    }
    stories::skip::skip(&format!("{} has no {module}", python.display()));
    None
}

/// The client that is in the examples reads it by reflection.
fn python(world: &World, server: &Server, more: &[&str]) {
    let Some(python) = python_with("grpc_reflection") else {
        return;
    };
    let script = stories::workspace().join("controller/examples/python-client/runs.py");
    let output = Command::new(python)
        .arg(script)
        .arg(server.address())
        .args(more)
        .args(["--run", "long", "--samples", "3"])
        .current_dir(world.work())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let problem = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}{problem}");
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let services = lines[0]["services"].as_array().unwrap();
    for service in ["spotter.v1.Runs", "grpc.health.v1.Health"] {
        assert!(services.iter().any(|name| name == service), "{services:?}");
    }
    assert_eq!(lines[0]["serving"], true);
    let all = |what: &str| {
        lines
            .iter()
            .filter_map(|line| line.get(what))
            .cloned()
            .collect::<Vec<_>>()
    };
    let runs = all("run");
    let run = runs.iter().find(|run| run["run"] == "long").unwrap();
    assert_eq!(
        (&run["state"], &run["reachable"]),
        (&Value::from("running"), &Value::from(true)),
        "{run}"
    );
    let samples = all("sample");
    assert_eq!(samples.len(), 3, "{text}");
    for sample in &samples {
        assert_eq!(sample["run"], "long");
        assert!(sample["sample"]["time_us"].as_str().is_some(), "{sample}");
    }
    let newest = samples.last().unwrap();
    assert_eq!(newest["sample"]["gpus"].as_array().unwrap().len(), 1);
    let events = all("event");
    let kinds: Vec<_> = events
        .iter()
        .map(|event| event["event"]["kind"].as_str().unwrap())
        .collect();
    assert!(kinds.contains(&"session.started"), "{kinds:?}");
    // Each once, though box and record tell of it.
    let mut tellers: Vec<_> = events
        .iter()
        .map(|event| {
            let of = &event["event"];
            format!("{} {} {}", event["by_spotter"], of["attempt"], of["seq"])
        })
        .collect();
    let count = tellers.len();
    tellers.sort();
    tellers.dedup();
    assert_eq!(tellers.len(), count, "{events:?}");
}

/// A receiver that decodes what is pushed by the messages of OpenTelemetry itself, and prints each metric once.
const RECEIVER: &str = r#"
import http.server, json
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as service

class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        assert self.headers["content-type"] == "application/x-protobuf"
        pushed = service.ExportMetricsServiceRequest.FromString(body)
        for resource in pushed.resource_metrics:
            about = {one.key: one.value.string_value or one.value.int_value for one in resource.resource.attributes}
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    points = (metric.gauge or metric.sum).data_points or metric.sum.data_points
                    of = {one.key: one.value.string_value for one in points[0].attributes}
                    print(json.dumps({"path": self.path, "key": self.headers["x-key"], "about": about, "name": metric.name, "unit": metric.unit,
                                      "kind": metric.WhichOneof("data"), "value": points[0].as_double, "of": of}), flush=True)
        answer = service.ExportMetricsServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *_):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Receiver)
print(f"listening on {server.server_port}", flush=True)
server.serve_forever()
"#;

struct Receiver {
    process: Background,
    url: String,
}

impl Receiver {
    fn start(world: &World) -> Option<Receiver> {
        let python = python_with("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")?;
        let mut command = Command::new(python);
        command.args(["-c", RECEIVER]).stdin(Stdio::null());
        let process = world.behind("receiver", command);
        let port = world.until("the port of the receiver", || {
            let text = process.text();
            let line = text
                .lines()
                .find(|line| line.starts_with("listening on "))?;
            line.rsplit(' ').next().map(str::to_owned)
        });
        let url = format!("http://127.0.0.1:{port}");
        Some(Receiver { process, url })
    }

    /// It was sent what there is, by the names of the conventions.
    fn has(&self, world: &World) {
        let found = world.until("a GPU in what was pushed", || {
            let text = self.process.text();
            let metrics = text
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let metrics: Vec<Value> = metrics.collect();
            let has_gpu = metrics
                .iter()
                .any(|metric| metric["name"] == "hw.gpu.memory.usage");
            has_gpu.then_some(metrics)
        });
        let of = |name: &str| found.iter().find(|metric| metric["name"] == name).unwrap();
        let memory = of("hw.gpu.memory.usage");
        assert_eq!(memory["path"], "/v1/metrics");
        assert_eq!(memory["about"]["spotter.run"], "long");
        assert_eq!(memory["about"]["service.name"], "spotter");
        assert_eq!(
            (&memory["unit"], &memory["kind"]),
            (&Value::from("By"), &Value::from("gauge"))
        );
        assert!(memory["value"].as_f64().unwrap() > 1e6, "{memory}");
        assert!(
            memory["of"]["hw.id"].as_str().unwrap().starts_with("GPU-"),
            "{memory}"
        );
        assert_eq!(of("spotter.run.reachable")["value"], 1.0);
        // What is over is not of now.
        assert!(
            found
                .iter()
                .all(|metric| metric["about"]["spotter.run"] == "long")
        );
    }
}

fn browse(world: &World) {
    if Command::new("chromium").arg("--version").output().is_err() {
        return stories::skip::skip("chromium is not installed: apt-get install chromium");
    }
    world.training(&Training::interruptible("small", 25));
    world.ok(&["run", "small.yaml"]);
    world.training(&Training::interruptible("long", 100_000));
    world.ok(&["run", "long.yaml", "--detach"]);
    world.until_step("long", 1, 0);
    let server = Server::start(world, "serve", &[]);
    world.until("a curve to be shown", || {
        let run = server.json("api/runs/long");
        (run["loss"]["points"].as_array()?.len() > 2 && !run["gpus"].as_array()?.is_empty())
            .then_some(())
    });

    let dom = seen(world, &server, "long", (1280, 900));
    for text in [
        "<b>long</b>",
        "<b>small</b>",
        "id=\"state\">RUNNING</span>",
        "GPU 0",
        "<polyline class=\"curve\"",
        "data-tab=\"checkpoints\"",
        "role=\"tab\"",
        "/h now",
    ] {
        assert!(dom.contains(text), "{text} is not on the page:\n{dom}");
    }
    // The tail of the log is there, as text.
    assert!(dom.contains("/100000 | loss "), "{dom}");
    assert!(dom.contains("role=\"status\"></div>"), "{dom}");
    // What has ended, on a phone.
    let dom = seen(world, &server, "small", (390, 844));
    assert!(dom.contains("id=\"state\">DONE</span>"), "{dom}");
    world.ok(&["stop", "long"]);
}

/// The page as a browser has it after some rounds; its picture is kept where `SPOTTER_SCREENS` says.
fn seen(world: &World, server: &Server, run: &str, (width, height): (u32, u32)) -> String {
    let profile = world.work().join(format!("chromium-{width}"));
    let browser = || {
        let mut command = Command::new("chromium");
        command
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--hide-scrollbars",
                "--virtual-time-budget=9000",
            ])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(format!("--window-size={width},{height}"))
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        command
    };
    let url = format!("{}#{run}", server.url);
    // The time of a browser without a screen runs ahead of ours: what it asks for is to be there already, however long it takes to start.
    let page = profile.with_extension("html");
    let mut child = browser()
        .arg("--dump-dom")
        .arg(&url)
        .stdout(fs::File::create(&page).unwrap())
        .spawn()
        .unwrap();
    let mut ended = None;
    let took_too_long = !world.try_until(|| {
        server.ask(&format!("api/runs/{run}"), &[]);
        ended = child.try_wait().unwrap();
        ended.is_some()
    });
    if took_too_long {
        let _ = child.kill();
        let _ = child.wait();
    }
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    if let Some(folder) = std::env::var_os("SPOTTER_SCREENS") {
        let picture = Path::new(&folder).join(format!("{run}-{width}.png"));
        let status = browser()
            .arg(format!("--screenshot={}", picture.display()))
            .arg(&url)
            .stdout(Stdio::null())
            .status();
        assert!(status.unwrap().success());
    }
    let page = fs::read_to_string(page).unwrap();
    // What the script may say is not on the page for that.
    let (shown, _) = page.split_once("<script>").unwrap();
    shown.to_owned()
}

fn guarded(world: &World) {
    // Other machines could ask: that takes a certificate and a token.
    let refused = world.say(&["serve", "--listen", "0.0.0.0:0"]);
    assert_eq!(refused.code, 2, "{}", refused.out);
    assert!(refused.stderr.contains("--token-file"), "{}", refused.out);

    // This machine alone, and no page from elsewhere.
    let open = Server::start(world, "open", &[]);
    assert_eq!(open.ask("api/runs", &[]).1, 200);
    for (header, status) in [
        ("Host: evil.example", 403),
        ("Origin: http://evil.example", 403),
        ("Origin: null", 403),
        ("Host: localhost", 200),
    ] {
        let (body, found) = open.ask("api/runs", &["--header", header]);
        assert_eq!(found, status, "{header}: {body}");
    }
    let (head, _) = open.ask("", &["--head"]);
    for line in [
        "content-security-policy: default-src 'none'; script-src 'sha256-",
        "x-frame-options: DENY",
    ] {
        assert!(head.contains(line), "{line} is not in\n{head}");
    }

    let certified = Certified::new();
    world.write("ca.pem", &certified.authority);
    world.write("server.pem", &certified.certificate);
    world.write("server.key", &certified.key);
    world.write("token", "0123456789abcdef0123456789abcdef\n");
    let token = world.work().join("token");
    let mode = |mode| fs::set_permissions(&token, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    let args = [
        "--tls-cert",
        "server.pem",
        "--tls-key",
        "server.key",
        "--token-file",
        "token",
    ];
    let shared = world.say(&[&["serve", "--listen", "127.0.0.1:0"][..], &args[..]].concat());
    assert_eq!(shared.code, 2, "{}", shared.out);
    assert!(shared.stderr.contains("chmod 600"), "{}", shared.out);
    mode(0o600);
    let server = Server::start(world, "guarded", &args);
    assert!(server.url.starts_with("https://"), "{}", server.url);
    let authority = world.work().join("ca.pem");
    let authority = authority.to_str().unwrap();
    let with = |path: &str, token: &str| {
        let header = format!("Authorization: Bearer {token}");
        server
            .ask(path, &["--cacert", authority, "--header", &header])
            .1
    };
    assert_eq!(with("api/runs", "0123456789abcdef0123456789abcdef"), 200);
    assert_eq!(with("metrics", "0123456789abcdef0123456789abcdef"), 200);
    assert_eq!(with("api/runs", "0123456789abcdef0123456789abcdeF"), 401);
    assert_eq!(server.ask("metrics", &["--cacert", authority]).1, 401);
    // The page has no data of its own, and a place to type the token.
    assert_eq!(server.ask("", &["--cacert", authority]).1, 200);
    // Without its authority nobody trusts it.
    assert_eq!(server.ask("", &[]).1, 0);
    if let Some(python) = python_with("grpc_reflection") {
        let script = stories::workspace().join("controller/examples/python-client/runs.py");
        let output = Command::new(python)
            .arg(script)
            .arg(server.address())
            .args(["--ca", "ca.pem", "--token-file", "token", "--samples", "0"])
            .current_dir(world.work())
            .output()
            .unwrap();
        let problem = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{problem}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("spotter.v1.Runs"));
    }
    assert!(!server.process.text().contains("0123456789abcdef"));
}
