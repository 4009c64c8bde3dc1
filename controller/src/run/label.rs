//! The label by which a box is found again after a lost answer: `spotter/<store id>/<run>/<attempt>/<nonce>` (pure).

/// What a label of ours says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label<'a> {
    /// Store that rented the box.
    pub store: &'a str,
    /// Run that it was rented for.
    pub run: &'a str,
    /// Attempt, from 1.
    pub attempt: u32,
    /// Makes it unique.
    pub nonce: &'a str,
}

/// Writes a label. Names of runs hold no slash, so it can be read back.
pub fn label(store: &str, run: &str, attempt: u32, nonce: &str) -> String {
    format!("spotter/{store}/{run}/{attempt}/{nonce}")
}

/// Reads a label; `None` when it is not one of spotter's.
pub fn parse(text: &str) -> Option<Label<'_>> {
    let mut parts = text.split('/');
    if parts.next()? != "spotter" {
        return None;
    }
    let label = Label {
        store: parts.next()?,
        run: parts.next()?,
        attempt: parts.next()?.parse().ok()?,
        nonce: parts.next()?,
    };
    let whole = !label.store.is_empty() && !label.run.is_empty() && !label.nonce.is_empty();
    (whole && parts.next().is_none()).then_some(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_read_back_and_foreign_ones_are_nobodys() {
        let text = label("01STORE", "llama-7b", 3, "9f2c");
        assert_eq!(
            parse(&text),
            Some(Label {
                store: "01STORE",
                run: "llama-7b",
                attempt: 3,
                nonce: "9f2c"
            })
        );
        for foreign in [
            "",
            "job-1",
            "spotter",
            "spotter/a/b/x/c",
            "spotter/a/b/1",
            "spotter/a/b/1/c/d",
            "spotter//b/1/c",
        ] {
            assert_eq!(parse(foreign), None, "{foreign}");
        }
    }
}
