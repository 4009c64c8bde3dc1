//! What a user who is away is told of the events of his box, in words (pure): the same whether the box tells him itself or whoever
//! watches it does.

use serde_json::Value;

/// What is told of an event of an agent; `None`: nothing. `run`: the run's name.
pub fn text(run: &str, kind: &str, detail: &Value) -> Option<String> {
    let word = |key: &str| detail[key].as_str().filter(|word| !word.is_empty());
    // After a reason where there is one.
    let with = |what: &str, key: &str| match word(key) {
        Some(why) => format!("{what}: {why}"),
        None => what.to_owned(),
    };
    Some(match kind {
        "backup.alarm" => with("the backup is behind", "reason"),
        "backup.recovered" => "the backup is up to date again".to_owned(),
        "checkpoint.rare" => word("text")?.to_owned(),
        "results.failed" => with("its results are not in the bucket yet", "problem"),
        "disk.filling" => filling(run, detail),
        "credentials.expiring" => {
            let left_s = detail["left_s"].as_u64().unwrap_or_default();
            format!(
                "the bucket keys of its box end in {} min, and nobody has brought others",
                left_s / 60
            )
        }
        "credentials.expired" => "the bucket keys of its box have ended".to_owned(),
        "credentials.wanted" => with("its box needs other bucket keys", "problem"),
        "training.restarted" => restarted(detail),
        "session.diagnosed" => diagnosed(detail)?,
        "window.contradicted" => {
            let words = contradictions(detail);
            format!("the training contradicts its estimate: {words}")
        }
        "training.ending" => with("its box ends the training", "reason"),
        "self_destroy" => with(
            "its box destroys itself, because the bucket has everything",
            "reason",
        ),
        "self_stop" => {
            let stops = with("its box stops itself", "reason");
            match word("kept_because") {
                Some(why) => format!("{stops}; it does not destroy itself: {why}"),
                None => stops,
            }
        }
        _ => return None,
    })
}

/// What `disk.filling` says.
pub fn filling(run: &str, detail: &Value) -> String {
    let number = |key: &str| detail[key].as_u64();
    let size = |key: &str| {
        let mib = number(key).unwrap_or(0) as f64 / f64::from(1 << 20);
        match mib < 1024.0 {
            true => format!("{mib:.1} MiB"),
            false => format!("{:.1} GiB", mib / 1024.0),
        }
    };
    let takes = match number("fit").unwrap_or(0) {
        0 => "has no room for the next checkpoint".to_owned(),
        1 => "has room for one more checkpoint".to_owned(),
        fit => format!("has room for {fit} more checkpoints"),
    };
    let when = number("full_in_s").map_or_else(String::new, |seconds| {
        let when = match seconds.div_ceil(60) {
            minutes @ ..120 => format!("{minutes} min"),
            minutes => format!("{} h", minutes / 60),
        };
        format!(" and is full in about {when}, which ends the training")
    });
    let why = match (detail["behind"] == true, number("kept")) {
        (true, _) => "none is deleted while the backup is behind".to_owned(),
        (false, Some(kept)) => format!("`checkpoints.keep` holds {kept} of them there"),
        (false, None) => "`checkpoints.keep` holds all of them there".to_owned(),
    };
    format!(
        "the box's disk {takes}{when}: {} are free, one has {}, and {why}; make room with `spotter ssh {run}`, or `spotter stop \
         {run}` and rent more with `resources.disk`",
        size("free_bytes"),
        size("largest_bytes"),
    )
}

/// One sentence about a training that its box started again.
pub fn restarted(detail: &Value) -> String {
    let number = |key: &str| detail[key].as_u64();
    let from = number("step").map_or_else(
        || "from the beginning".to_owned(),
        |step| format!("from step {step}"),
    );
    let lost =
        match number("last_step").map(|last| last.saturating_sub(number("step").unwrap_or(0))) {
            Some(lost @ 1..) => format!(", {lost} steps were lost"),
            _ => String::new(),
        };
    let keys = match detail["uploads_wait"].as_bool() {
        Some(true) => "; uploads waited for bucket keys, which no box keeps through a restart",
        _ => "",
    };
    format!("its box was restarted and went on with the training by itself {from}{lost}{keys}")
}

/// What contradicts the estimate in a window, with its evidence.
pub fn contradictions(window: &Value) -> String {
    let found = window["contradictions"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let words: Vec<&str> = found
        .iter()
        .filter_map(|one| one["evidence"].as_str())
        .collect();
    words.join("; ")
}

/// What ended a session. What the market took back is told as that.
fn diagnosed(detail: &Value) -> Option<String> {
    let word = |key: &str| detail[key].as_str().filter(|word| !word.is_empty());
    if matches!(word("class"), None | Some("none" | "preempted")) {
        return None;
    }
    let meaning = word("meaning").or_else(|| word("evidence"))?;
    Some(match word("advice") {
        Some(advice) => format!("the cause: {meaning}; next: {advice}"),
        None => format!("the cause: {meaning}"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_end_of_a_box_is_told_with_its_reason_and_what_is_no_news_is_not_told() {
        let reason = json!({"reason": "nobody came"});
        let kept = json!({"reason": "nobody came", "kept_because": "its log is not there"});
        for (kind, detail, expected) in [
            (
                "self_stop",
                &reason,
                Some("its box stops itself: nobody came"),
            ),
            (
                "self_stop",
                &kept,
                Some(
                    "its box stops itself: nobody came; it does not destroy itself: its log is not there",
                ),
            ),
            (
                "self_destroy",
                &reason,
                Some("its box destroys itself, because the bucket has everything: nobody came"),
            ),
            ("checkpoint.committed", &reason, None),
            ("notified", &reason, None),
        ] {
            assert_eq!(text("r", kind, detail).as_deref(), expected, "{kind}");
        }
    }
}
