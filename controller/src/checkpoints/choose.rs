//! Which checkpoint is meant by what was typed (pure).

use spotter_bucket::CommitId;

/// The checkpoint that a text names, from all, last written first. Without a text, or with `newest`, the one written last; a number is
/// a step (of several the one written last); else its id, or any beginning of its part after the step.
///
/// # Errors
/// Says what there is instead.
pub fn choose(ids: &[CommitId], wanted: Option<&str>) -> Result<CommitId, String> {
    let Some(newest) = ids.first() else {
        return Err("there is none".to_owned());
    };
    let wanted = wanted.unwrap_or("newest").trim();
    if matches!(wanted, "newest" | "latest" | "last") {
        return Ok(*newest);
    }
    if let Ok(id) = wanted.parse::<CommitId>() {
        return match ids.contains(&id) {
            true => Ok(id),
            false => Err(format!("there is no {id}")),
        };
    }
    if let Ok(step) = wanted.parse::<u64>() {
        return ids
            .iter()
            .find(|id| id.step == step)
            .copied()
            .ok_or_else(|| format!("there is none of step {step}, only of {}", steps(ids)));
    }
    let begins = wanted.to_ascii_uppercase();
    let mut found = ids
        .iter()
        .filter(|id| !begins.is_empty() && id.ulid.to_string().starts_with(&begins));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(*id),
        (Some(_), Some(_)) => Err(format!("several ids begin with `{wanted}`")),
        _ => Err(format!(
            "`{wanted}` is neither `newest` nor a step nor the beginning of an id"
        )),
    }
}

fn steps(ids: &[CommitId]) -> String {
    const MOST: usize = 8;
    let mut steps: Vec<u64> = ids.iter().map(|id| id.step).collect();
    steps.dedup();
    let more = steps.len() > MOST;
    let names: Vec<String> = steps.iter().take(MOST).map(u64::to_string).collect();
    format!("{}{}", names.join(", "), if more { ", ..." } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> Vec<CommitId> {
        [
            "000000000020-01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "000000000010-01ARYZ6S41TSV4RRFFQ69G5FAV",
            "000000000020-01ARYZ6S40TSV4RRFFQ69G5FAV",
        ]
        .map(|id| id.parse().unwrap())
        .to_vec()
    }

    #[test]
    fn a_checkpoint_is_named_by_step_id_or_its_beginning() {
        let ids = ids();
        let check = |wanted: Option<&str>, expected: Option<usize>| {
            let found = choose(&ids, wanted);
            assert_eq!(
                found.clone().ok(),
                expected.map(|at| ids[at]),
                "{wanted:?}: {found:?}"
            );
        };
        check(None, Some(0));
        check(Some("newest"), Some(0));
        check(Some("10"), Some(1));
        check(Some("20"), Some(0));
        check(Some("01arz3"), Some(0));
        check(Some("01ARYZ6S41"), Some(1));
        check(Some("01ARYZ"), None);
        check(Some("30"), None);
        check(Some("best"), None);
        check(Some(""), None);
        check(Some("000000000010-01ARYZ6S41TSV4RRFFQ69G5FAV"), Some(1));
        check(Some("000000000011-01ARYZ6S41TSV4RRFFQ69G5FAV"), None);
        assert_eq!(
            choose(&ids, Some("30")).unwrap_err(),
            "there is none of step 30, only of 20, 10, 20"
        );
        assert!(choose(&[], None).is_err());
    }
}
