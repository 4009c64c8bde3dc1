//! Logs and commands of instances: answered with an address from which the result can be fetched once it is there.

use std::{
    collections::{HashMap, VecDeque},
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    extract::{Path as UrlPath, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{
    market::{InstanceId, Millis, instance::Instance},
    vast::call::{Answer, ApiError, Call, ok},
    world::World,
};

/// A result is there after this long when no switch says otherwise.
const READY_AFTER_MS: Millis = 400;
/// Lines of a log when the request names no number.
const DEFAULT_TAIL: usize = 1000;
/// Longest command, as documented.
const MAX_COMMAND_CHARS: usize = 512;
/// Results that are kept.
const KEPT: usize = 100;

/// Results by name, oldest first.
#[derive(Debug, Default)]
pub struct Results {
    ready: HashMap<String, (Millis, String)>,
    order: VecDeque<String>,
    made: u64,
}

impl Results {
    fn keep(&mut self, ready_ms: Millis, text: String) -> String {
        self.made += 1;
        let name = blake3::hash(format!("result {} {ready_ms}", self.made).as_bytes());
        let name = format!("{}.log", &name.to_hex()[..32]);
        self.ready.insert(name.clone(), (ready_ms, text));
        self.order.push_back(name.clone());
        if self.order.len() > KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.ready.remove(&oldest);
        }
        name
    }
}

fn publish(world: &Arc<World>, text: String) -> String {
    let delay_ms = (world.faults().result_delay_s * 1000.0) as Millis;
    let ready_ms = world.now_ms() + delay_ms.max(READY_AFTER_MS);
    let name = world.results().keep(ready_ms, text);
    format!("{}/results/{name}", world.url())
}

/// `GET /results/{name}`: needs no key; 404 until it is there.
pub async fn fetch(State(world): State<Arc<World>>, UrlPath(name): UrlPath<String>) -> Response {
    let now = world.now_ms();
    let found = world.results().ready.get(&name).cloned();
    match found.filter(|(ready_ms, _)| *ready_ms <= now) {
        Some((_, text)) => ([(header::CONTENT_TYPE, "text/plain")], text).into_response(),
        None => (StatusCode::NOT_FOUND, "NoSuchKey").into_response(),
    }
}

/// `PUT /api/v0/instances/request_logs/{id}/`.
pub async fn logs(
    State(world): State<Arc<World>>,
    UrlPath(id): UrlPath<String>,
    call: Call,
) -> Answer {
    let id = call.instance(&world, &id)?;
    let of_daemon = call.text("daemon_logs").is_some_and(|flag| flag == "true");
    let printed = match of_daemon {
        true => Vec::new(),
        false => world.boxes().container_log(id).await.unwrap_or_default(),
    };
    let life = world.act(|market, _| market.living(id).map(life))?;
    let text = match printed.is_empty() {
        true => life,
        false => String::from_utf8_lossy(&printed).into_owned(),
    };
    let filter = call.text("filter").unwrap_or_default();
    let tail = call
        .number("tail")
        .map_or(DEFAULT_TAIL, |tail| tail as usize);
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(&filter)).collect();
    let kept = lines[lines.len().saturating_sub(tail)..].join("\n");
    let url = publish(&world, kept + "\n");
    ok(json!({"success": true, "result_url": url, "msg": "Logs are being fetched."}))
}

/// What the host's daemon did with an instance so far.
fn life(instance: &Instance) -> String {
    let mut text = format!("C.{}: image {}\n", instance.id, instance.order.image);
    for interval in &instance.bill.intervals {
        let seconds = (interval.start_ms - instance.created_ms) as f64 / 1000.0;
        // Writing to a string does not fail.
        let _ = writeln!(text, "+{seconds:.1} s {}", interval.state);
    }
    if let Some(said) = &instance.status_msg {
        text.push_str(said);
        text.push('\n');
    }
    text
}

/// `PUT /api/v0/instances/command/{id}/`: `ls`, `du` and `rm`, on stopped instances too.
pub async fn execute(
    State(world): State<Arc<World>>,
    UrlPath(id): UrlPath<String>,
    call: Call,
) -> Answer {
    call.account()?;
    let id = call.instance(&world, &id)?;
    let invalid = |text: &str| ApiError::invalid(format!("error 400/2401: Invalid args: {text}"));
    let command = call
        .text("command")
        .ok_or_else(|| invalid("command is missing"))?;
    if command.chars().count() > MAX_COMMAND_CHARS {
        return Err(invalid("the command is too long"));
    }
    let mut words = command.split_whitespace();
    let tool = words.next().unwrap_or_default().to_owned();
    if !["ls", "du", "rm"].contains(&tool.as_str()) {
        return Err(invalid("only ls, rm and du are allowed"));
    }
    let mut paths = words.filter(|word| !word.starts_with('-'));
    let path = paths.next_back().unwrap_or(".").to_owned();
    let home = home(&world, id).await?;
    let text = run(&tool, &home, &path).unwrap_or_else(|err| format!("{tool}: {path}: {err}\n"));
    let url = publish(&world, text);
    let writeable = format!("{}/", home.display());
    ok(json!({
        "success": true, "writeable_path": writeable, "result_url": url, "msg": "Command is being executed.",
    }))
}

async fn home(world: &Arc<World>, id: InstanceId) -> Result<PathBuf, ApiError> {
    let home = world.boxes().home(id).await;
    let home = home.and_then(|home| Ok(home.canonicalize()?));
    home.map_err(|err| ApiError::new(400, "invalid_args", format!("{err:#}")))
}

/// One of the three commands on a path of the box, which is its home or below it.
fn run(tool: &str, home: &Path, path: &str) -> std::io::Result<String> {
    let inside = path.strip_prefix("/root").unwrap_or(path);
    let target = home.join(inside.trim_start_matches('/')).canonicalize()?;
    if !target.starts_with(home) {
        return Err(std::io::ErrorKind::PermissionDenied.into());
    }
    match tool {
        "rm" if target.is_dir() => Err(std::io::ErrorKind::IsADirectory.into()),
        "rm" => std::fs::remove_file(&target).map(|()| String::new()),
        "du" => Ok(format!(
            "{}\t{}\n",
            size(&target)?.div_ceil(1024),
            target.display()
        )),
        _ => {
            let mut names = vec![];
            for entry in std::fs::read_dir(&target)? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            names.sort_unstable();
            Ok(names
                .iter()
                .fold(String::new(), |text, name| text + name + "\n"))
        }
    }
}

fn size(path: &Path) -> std::io::Result<u64> {
    let meta = path.symlink_metadata()?;
    if !meta.is_dir() {
        return Ok(meta.len());
    }
    let mut bytes = 0;
    for entry in path.read_dir()? {
        bytes += size(&entry?.path())?;
    }
    Ok(bytes)
}
