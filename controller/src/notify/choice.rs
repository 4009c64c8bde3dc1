//! Which events are told, and in which words (pure).

use serde_json::Value;
use spotter_trainlog::telling;

use crate::{
    run::{runtime, silence},
    store::{ENDED, EventRecord},
    ui::text,
};

/// What is told of an event; `None`: nothing.
pub(super) fn text(run: &str, event: &EventRecord) -> Option<String> {
    let detail = &event.detail;
    let word = |key: &str| detail[key].as_str().filter(|word| !word.is_empty());
    let attempt = event.attempt;
    // After a reason where there is one.
    let with = |what: String, key: &str| match word(key) {
        Some(why) => format!("{what}: {why}"),
        None => what,
    };
    Some(match event.kind.as_str() {
        silence::SILENT | "credit_low" | "contract_ends" | "bill_doubtful" => {
            word("text")?.to_owned()
        }
        silence::HEARD => "its box answers again".to_owned(),
        "interrupted" => with(format!("attempt {attempt} was interrupted"), "reason"),
        "lost" => with(format!("the box of attempt {attempt} is lost"), "reason"),
        "stopped_by_hand" => with(format!("the box of attempt {attempt} is stopped"), "reason"),
        "waiting" => "its box is waited for".to_owned(),
        runtime::RUNNING => return recovered(attempt, detail),
        "crashed" => match word("session") {
            Some(session) => with(format!("`{session}` crashed"), "how"),
            None => with("the training crashed".to_owned(), "how"),
        },
        "self_stopped" => {
            let did = match detail["destroyed"].as_bool() {
                Some(true) => "destroyed itself, since nobody came and all is saved",
                _ => "stopped itself, since nobody came",
            };
            with(format!("its box {did}"), "how")
        }
        "limit_reached" => with("it is finished in order".to_owned(), "reason"),
        "budget_low" => {
            let usd = |key: &str| text::usd(detail[key].as_f64().unwrap_or_default());
            let left_s = detail["left_s"].as_u64().unwrap_or_default();
            format!(
                "{} of its budget of {} are spent, which lasts {} more minutes",
                usd("spent_usd"),
                usd("budget_usd"),
                left_s / 60
            )
        }
        ENDED => {
            let outcome = word("outcome").unwrap_or("ended");
            with(format!("it is over: {outcome}"), "reason")
        }
        // Whoever comes back tells that as `self_stopped`.
        "self_stop" | "self_destroy" => return None,
        kind => return telling::text(run, kind, detail),
    })
}

/// A training that goes on after an interruption; its first start is what its user sees himself.
fn recovered(attempt: u32, detail: &Value) -> Option<String> {
    let number = |key: &str| detail[key].as_u64();
    let (resumed, lost) = (number("resumed_step"), number("steps_lost"));
    if attempt <= 1 && resumed.is_none() && lost.is_none() {
        return None;
    }
    let from = resumed.map_or_else(String::new, |step| format!(" from step {step}"));
    let lost = match lost {
        Some(lost @ 1..) => format!("; at least {lost} steps were lost"),
        _ => String::new(),
    };
    Some(format!("it trains again, attempt {attempt}{from}{lost}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::Origin;

    #[test]
    fn what_is_told_of_each_event() {
        let check = |kind: &str, attempt: u32, detail: Value, expected: Option<&str>| {
            let event = EventRecord {
                id: 1,
                attempt,
                origin: Origin::Agent,
                seq: 1,
                time_us: 0,
                kind: kind.to_owned(),
                detail,
            };
            assert_eq!(text("r", &event).as_deref(), expected, "{kind}");
        };
        let reason = |reason: &str| json!({ "reason": reason });
        for (kind, detail, expected) in [
            (
                "backup.alarm",
                reason("a finished checkpoint has waited 601 s"),
                "the backup is behind: a finished checkpoint has waited 601 s",
            ),
            (
                "backup.recovered",
                json!({}),
                "the backup is up to date again",
            ),
            (
                "box_silent",
                json!({"since_us": 1, "text": "no word"}),
                "no word",
            ),
            (
                "box_heard",
                json!({"silent_s": 400}),
                "its box answers again",
            ),
            (
                "checkpoint.rare",
                json!({"text": "31 min are at risk"}),
                "31 min are at risk",
            ),
            (
                "credit_low",
                json!({"text": "the account is low"}),
                "the account is low",
            ),
            ("contract_ends", json!({"text": "it ends"}), "it ends"),
            (
                "credentials.expiring",
                json!({"left_s": 600}),
                "the bucket keys of its box end in 10 min, and nobody has brought others",
            ),
            (
                "credentials.expired",
                json!({}),
                "the bucket keys of its box have ended",
            ),
            (
                "credentials.wanted",
                json!({"problem": "denied"}),
                "its box needs other bucket keys: denied",
            ),
            (
                "interrupted",
                reason("outbid"),
                "attempt 2 was interrupted: outbid",
            ),
            ("interrupted", Value::Null, "attempt 2 was interrupted"),
            (
                "lost",
                reason("no word"),
                "the box of attempt 2 is lost: no word",
            ),
            (
                "stopped_by_hand",
                reason("x"),
                "the box of attempt 2 is stopped: x",
            ),
            ("waiting", json!({}), "its box is waited for"),
            (
                "training.restarted",
                json!({"step": 10, "last_step": 12}),
                "its box was restarted and went on with the training by itself from step 10, 2 steps were lost",
            ),
            (
                "running",
                json!({"resumed_step": 120, "steps_lost": 7}),
                "it trains again, attempt 2 from step 120; at least 7 steps were lost",
            ),
            (
                "running",
                json!({"steps_lost": 0}),
                "it trains again, attempt 2",
            ),
            (
                "crashed",
                json!({"how": "exited with code 1"}),
                "the training crashed: exited with code 1",
            ),
            (
                "crashed",
                json!({"session": "smoke", "how": "exited with code 1"}),
                "`smoke` crashed: exited with code 1",
            ),
            (
                "session.diagnosed",
                json!({"class": "cuda_oom", "meaning": "the GPU is full", "advice": "halve it"}),
                "the cause: the GPU is full; next: halve it",
            ),
            (
                "window.contradicted",
                json!({"contradictions": [{"evidence": "slow"}, {"evidence": "idle"}]}),
                "the training contradicts its estimate: slow; idle",
            ),
            (
                "training.ending",
                reason("72 h"),
                "its box ends the training: 72 h",
            ),
            (
                "limit_reached",
                reason("72 h"),
                "it is finished in order: 72 h",
            ),
            (
                "budget_low",
                json!({"spent_usd": 18.0, "budget_usd": 20.0, "left_s": 3000}),
                "$18.00 of its budget of $20.00 are spent, which lasts 50 more minutes",
            ),
            (
                "self_stopped",
                json!({"how": "exited with code 0"}),
                "its box stopped itself, since nobody came: exited with code 0",
            ),
            (
                "self_stopped",
                json!({"how": "exited with code 0", "destroyed": true}),
                "its box destroyed itself, since nobody came and all is saved: exited with code 0",
            ),
            (
                "ended",
                json!({"outcome": "crashed", "reason": "the training exited with code 1"}),
                "it is over: crashed: the training exited with code 1",
            ),
            (
                "ended",
                json!({"outcome": "done", "reason": null}),
                "it is over: done",
            ),
        ] {
            check(kind, 2, detail, Some(expected));
        }
        // The first start, and what is no news.
        check(
            "running",
            1,
            json!({"resumed_step": null, "steps_lost": null}),
            None,
        );
        check("session.diagnosed", 1, json!({"class": "preempted"}), None);
        for kind in [
            "checkpoint.committed",
            "window",
            "rented",
            "disk.enough",
            "credentials",
        ] {
            check(kind, 1, json!({"text": "x", "reason": "x"}), None);
        }
    }

    #[test]
    fn a_disk_that_fills_is_told_as_everywhere_else() {
        let detail = json!({"fit": 1, "largest_bytes": 1 << 30, "free_bytes": 1 << 30, "kept": 3});
        let event = EventRecord {
            id: 1,
            attempt: 1,
            origin: Origin::Agent,
            seq: 1,
            time_us: 0,
            kind: "disk.filling".to_owned(),
            detail,
        };
        let told = text("r", &event).unwrap();
        assert!(told.contains("has room for one more checkpoint"), "{told}");
    }
}
