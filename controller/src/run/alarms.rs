//! Whether the backup of an attempt is behind, by the events that its agent told: which file, and why.

use serde_json::Value;

use crate::store::{EventRecord, Store, StoreError};

/// What is wrong with the backup now, for people; `None` when nothing is.
pub fn backup(store: &Store, run: &str, attempt: u32) -> Result<Option<String>, StoreError> {
    let newest = |kind: &str| store.newest_event(run, attempt, kind);
    let Some(alarm) = newest("backup.alarm")? else {
        return Ok(None);
    };
    if newest("backup.recovered")?.is_some_and(|recovered| recovered.id > alarm.id) {
        return Ok(None);
    }
    let committed = newest("checkpoint.committed")?.map_or(0, |event| event.id);
    let failed = newest("checkpoint.failed")?.filter(|failed| failed.id > committed);
    Ok(Some(text(&alarm, failed.as_ref())))
}

/// The alarm's reason, and the file that is in its way where one is.
fn text(alarm: &EventRecord, failed: Option<&EventRecord>) -> String {
    let word = |detail: &Value, key: &str| {
        let word = detail[key].as_str().filter(|word| !word.is_empty());
        word.map(str::to_owned)
    };
    let reason = word(&alarm.detail, "reason").unwrap_or_else(|| "no commit in time".to_owned());
    let file = failed.and_then(|failed| {
        let path = word(&failed.detail, "path")?;
        Some(match word(&failed.detail, "problem") {
            Some(problem) => format!("{path}: {problem}"),
            None => path,
        })
    });
    match file.or_else(|| word(&alarm.detail, "problem")) {
        Some(more) => format!("{reason} ({more})"),
        None => reason,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{clock::Clock, store::StoredEvent};

    #[test]
    fn an_alarm_names_its_file_and_its_reason_until_the_backup_has_recovered() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db"), Clock::new(|| 0)).unwrap();
        let mut seq = 0;
        let mut check = |kind: &str, detail: Value, expected: Option<&str>| {
            seq += 1;
            let event = StoredEvent {
                seq,
                time_us: 0,
                kind: kind.to_owned(),
                detail,
            };
            store.append_events("r", 1, &[event]).unwrap();
            assert_eq!(backup(&store, "r", 1).unwrap().as_deref(), expected);
        };
        let refused = json!({"path": "step-20.pt", "step": 20, "problem": "access denied"});
        check("checkpoint.failed", refused.clone(), None);
        let late = json!({"reason": "a finished checkpoint has waited 601 s", "problem": ""});
        let named = "a finished checkpoint has waited 601 s (step-20.pt: access denied)";
        check("backup.alarm", late.clone(), Some(named));
        check("backup.recovered", json!({}), None);
        check("checkpoint.committed", json!({"step": 20}), None);
        let plain = "a finished checkpoint has waited 601 s";
        check("backup.alarm", late, Some(plain));
    }
}
