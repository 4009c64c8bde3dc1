//! Texts that must not be long (pure). What failed stands at their beginning and why at their end: neither goes.

/// Stands for what was left out.
const GAP: &str = " ... ";

/// At most so many characters of a text: all of it, or its beginning and its end.
pub fn shorten(text: &str, most_chars: usize) -> String {
    let count = text.chars().count();
    if count <= most_chars {
        return text.to_owned();
    }
    let kept = most_chars.saturating_sub(GAP.len());
    let end = kept / 2;
    let head: String = text.chars().take(kept - end).collect();
    let tail: String = text.chars().skip(count - end).collect();
    match kept {
        0 => text.chars().take(most_chars).collect(),
        _ => head + GAP + &tail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_and_why_both_stay() {
        for (text, most, expected) in [
            ("short", 5, "short"),
            ("", 0, ""),
            (
                "PUT data: ........ AccessDenied",
                25,
                "PUT data:  ... cessDenied",
            ),
            ("ééééééééééé", 7, "é ... é"),
            ("abcdefghij", 3, "abc"),
        ] {
            let found = shorten(text, most);
            assert_eq!(found, expected);
            assert!(found.chars().count() <= most.max(text.chars().count().min(most)));
        }
        let long = format!("tar: {}: no space left", "x".repeat(9_000));
        let found = shorten(&long, 300);
        assert_eq!(found.chars().count(), 300);
        assert!(found.starts_with("tar: ") && found.ends_with(": no space left"));
    }
}
