//! The page, and the data that it asks for: what the screen of `top` says, as JSON.
//!
//! One file without anything from elsewhere. Its script writes text and never markup, and the policy that comes with it allows
//! nothing but this script and these styles, by their hashes.

use std::sync::{Arc, LazyLock};

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use ring::digest::{SHA256, digest};
use serde::Serialize;

use super::hub::Hub;
use crate::{
    lookout::{
        curve::Points,
        facts::{Facts, signed},
    },
    run::to_come::ToCome,
    top::{
        keys::Pane,
        model::{self, Line, ListRow, View},
    },
};

/// The page.
const PAGE: &str = include_str!("page.html");
/// Points of a curve that are sent: more than a page is wide.
const MOST_POINTS: usize = 600;
/// Lines of a log, and of each other list, that are sent.
const MOST_LINES: usize = 300;
/// Checkpoints that are sent.
const MOST_CHECKPOINTS: usize = 200;

/// What a browser may do with the page.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let (script, style) = (hash("script"), hash("style"));
    let policy = format!(
        "default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).expect("a policy is made of visible characters")
});

/// Hash of what stands within the only element of this name.
fn hash(element: &str) -> String {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let (_, rest) = PAGE.split_once(&open).expect("the page has it");
    let (inner, _) = rest.split_once(&close).expect("the page has it");
    format!(
        "sha256-{}",
        base64(digest(&SHA256, inner.as_bytes()).as_ref())
    )
}

/// Base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = (0..3).fold(0, |word, at| {
            (word << 8) | u32::from(chunk.get(at).copied().unwrap_or(0))
        });
        for at in 0..4 {
            let letter = (word >> (18 - 6 * at)) & 63;
            text.push(match at > chunk.len() {
                true => '=',
                false => char::from(LETTERS[letter as usize]),
            });
        }
    }
    text
}

/// `GET /`
pub async fn page() -> Response {
    let mut response = Html(PAGE).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    response
}

/// All runs.
#[derive(Serialize)]
struct Runs {
    now_us: i64,
    version: &'static str,
    /// Why the record cannot be read.
    problem: Option<String>,
    usd_per_hour: f64,
    runs: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    row: ListRow,
    over: bool,
    gpus: String,
}

/// `GET /api/runs`
pub async fn runs(State(hub): State<Arc<Hub>>) -> Response {
    let runs = hub.look(|board, problem, now_us| Runs {
        now_us,
        version: env!("CARGO_PKG_VERSION"),
        problem: problem.map(str::to_owned),
        usd_per_hour: board
            .runs
            .iter()
            .fold(0.0, |sum, facts| sum + facts.recorded.usd_per_hour),
        runs: board
            .runs
            .iter()
            .map(|facts| Row {
                row: model::list_row(facts, now_us),
                over: facts.recorded.is_over,
                gpus: facts.recorded.gpus.clone(),
            })
            .collect(),
    });
    Json(runs).into_response()
}

/// One run.
#[derive(Serialize)]
struct Run {
    now_us: i64,
    #[serde(flatten)]
    view: View,
    over: bool,
    /// Attempt and session of the log.
    log_of: Option<(u32, String)>,
    log: Vec<Line>,
    events: Vec<Line>,
    windows: Vec<Line>,
    attempts: Vec<Line>,
    checkpoints: Vec<Saved>,
    cost: Cost,
}

/// A checkpoint in the bucket.
#[derive(Debug, PartialEq, Serialize)]
struct Saved {
    step: Option<u64>,
    attempt: u32,
    at_us: i64,
    path: String,
    size_bytes: Option<u64>,
    /// It was deleted since, to keep what is to be kept.
    deleted: bool,
}

#[derive(Serialize)]
struct Cost {
    usd_per_hour: f64,
    so_far_usd: f64,
    budget_usd: Option<f64>,
    to_come: Option<ToCome>,
}

/// `GET /api/runs/{run}`
pub async fn run(State(hub): State<Arc<Hub>>, Path(name): Path<String>) -> Response {
    let found = hub.look(|board, _, now_us| board.find(&name).map(|facts| of(facts, now_us)));
    match found {
        Some(run) => {
            hub.ask_for(&name);
            Json(run).into_response()
        }
        None => (StatusCode::NOT_FOUND, "there is no such run\n").into_response(),
    }
}

fn of(facts: &Facts, now_us: i64) -> Run {
    let recorded = &facts.recorded;
    let mut view = model::view(facts, now_us);
    thin(&mut view.loss.points);
    thin(&mut view.speed.points);
    for gpu in &mut view.gpus {
        thin(&mut gpu.history);
    }
    let lines = |pane| {
        let mut lines = model::lines(facts, pane, "");
        lines.drain(..lines.len().saturating_sub(MOST_LINES));
        lines
    };
    Run {
        now_us,
        view,
        over: recorded.is_over,
        log_of: facts.log.of.clone(),
        log: lines(Pane::Log),
        events: lines(Pane::Events),
        windows: lines(Pane::Windows),
        attempts: lines(Pane::Attempts),
        checkpoints: checkpoints(facts),
        cost: Cost {
            usd_per_hour: recorded.usd_per_hour,
            so_far_usd: recorded.cost_usd,
            budget_usd: recorded.budget_usd,
            to_come: recorded.to_come,
        },
    }
}

/// Leaves as many points as are sent, the last one among them.
fn thin(points: &mut Points) {
    let (count, every) = (points.len(), points.len().div_ceil(MOST_POINTS).max(1));
    let mut at = 0;
    points.retain(|_| {
        at += 1;
        (count - at).is_multiple_of(every)
    });
}

/// What was committed, newest first, as the events tell.
fn checkpoints(facts: &Facts) -> Vec<Saved> {
    let recorded = facts.events.iter().map(|event| {
        let at_us = event.time_us;
        (event.kind.as_str(), event.attempt, at_us, &event.detail)
    });
    let told = facts.live.told.iter().map(|event| {
        let at_us = signed(event.time_us);
        (event.kind.as_str(), event.attempt, at_us, &event.detail)
    });
    let mut saved: Vec<(String, Saved)> = Vec::new();
    for (kind, attempt, at_us, detail) in recorded.chain(told) {
        let id = detail["id"].as_str().unwrap_or_default();
        match kind {
            "checkpoint.committed" => {
                let one = Saved {
                    step: detail["step"].as_u64(),
                    attempt,
                    at_us,
                    path: detail["path"].as_str().unwrap_or_default().to_owned(),
                    size_bytes: detail["size_bytes"].as_u64(),
                    deleted: false,
                };
                saved.push((id.to_owned(), one));
            }
            "checkpoint.deleted" if detail["where"] == "bucket" => {
                for (_, one) in saved.iter_mut().filter(|(known, _)| known == id) {
                    one.deleted = true;
                }
            }
            _ => {}
        }
    }
    let newest = saved.into_iter().rev().take(MOST_CHECKPOINTS);
    newest.map(|(_, one)| one).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        store::{EventRecord, Origin},
        top::examples::{self, NOW_US},
    };

    #[test]
    fn the_policy_allows_this_script_and_nothing_else() {
        let policy = POLICY.to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"));
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(PAGE.matches("<script").count(), 1);
        assert_eq!(PAGE.matches("<style").count(), 1);
        for sign in [
            "innerHTML",
            "outerHTML",
            "document.write",
            "eval(",
            "http://",
            "https://",
            " style=",
            "onclick=",
        ] {
            // The name of a namespace is no address.
            let page = PAGE.replace("http://www.w3.org/2000/svg", "");
            assert!(!page.contains(sign), "{sign}");
        }
        for (bytes, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), expected);
        }
    }

    #[test]
    fn a_long_curve_is_thinned_and_keeps_its_end() {
        for count in [0, 1, MOST_POINTS, MOST_POINTS + 1, 4096] {
            let mut points: Points = (0..count).map(|at| (at as f64, 1.0)).collect();
            let last = points.last().copied();
            thin(&mut points);
            assert!(points.len() <= MOST_POINTS && points.last().copied() == last);
            assert!(points.len() >= count.min(MOST_POINTS) / 2);
        }
    }

    #[test]
    fn a_checkpoint_that_was_deleted_since_is_told_as_such() {
        let mut facts = Facts::default();
        for (id, kind, detail) in [
            (
                1,
                "checkpoint.committed",
                json!({"id": "a", "step": 10, "path": "ckpt-10", "size_bytes": 5}),
            ),
            (
                2,
                "checkpoint.committed",
                json!({"id": "b", "step": 20, "path": "ckpt-20", "size_bytes": 6}),
            ),
            (
                3,
                "checkpoint.deleted",
                json!({"id": "a", "step": 10, "where": "bucket"}),
            ),
            (
                4,
                "checkpoint.deleted",
                json!({"id": "b", "step": 20, "where": "box"}),
            ),
        ] {
            facts.events.push(EventRecord {
                id,
                attempt: 1,
                origin: Origin::Agent,
                seq: 1,
                time_us: id,
                kind: kind.to_owned(),
                detail,
            });
        }
        let found = checkpoints(&facts);
        let found: Vec<_> = found.iter().map(|one| (one.step, one.deleted)).collect();
        assert_eq!(found, [(Some(20), false), (Some(10), true)]);
    }

    #[test]
    fn a_run_is_told_in_the_words_of_the_screen() {
        let told = serde_json::to_value(of(&examples::live(2), NOW_US)).unwrap();
        assert_eq!(told["name"], "llama-7b");
        assert_eq!(told["state"], json!({"text": "RUNNING", "tone": "plain"}));
        assert_eq!(told["gpus"].as_array().unwrap().len(), 2);
        assert_eq!(told["cost"]["so_far_usd"], 1.53);
        assert!(told["loss"]["points"].as_array().unwrap().len() > 1);
        assert!(!told["log"].as_array().unwrap().is_empty());
    }
}
