//! Checkpoints that cannot be saved, told once for each cause (pure): a full disk leaves one torn file after another, all for one reason.

/// What several reasons have in common: a reason without its numbers, which differ from file to file.
pub fn cause(reason: &str) -> String {
    let mut cause = String::with_capacity(reason.len());
    for letter in reason.chars() {
        match letter.is_ascii_digit() {
            true if cause.ends_with('#') => {}
            true => cause.push('#'),
            false => cause.push(letter),
        }
    }
    cause
}

/// Lines of `path: reason`, one for each cause in the order of their first: the newest of its checkpoints by name, up to `names` of them,
/// and how many more there are.
pub fn once_each(unsaved: &[String], names: usize) -> Vec<String> {
    let mut causes: Vec<(String, Vec<(&str, &str)>)> = Vec::new();
    for line in unsaved {
        let (path, reason) = line.split_once(": ").unwrap_or((line, ""));
        let cause = cause(reason);
        match causes.iter_mut().find(|(known, _)| *known == cause) {
            Some((_, lines)) => lines.push((path, reason)),
            None => causes.push((cause, vec![(path, reason)])),
        }
    }
    let line = |lines: &[(&str, &str)]| {
        let newest_first = lines.iter().rev().map(|(path, _)| *path);
        let named: Vec<&str> = newest_first.take(names.max(1)).collect();
        let more = match lines.len() - named.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let reason = match lines.last() {
            Some((_, "")) | None => String::new(),
            Some((_, reason)) => format!(": {reason}"),
        };
        format!("{}{more}{reason}", named.join(", "))
    };
    causes.iter().map(|(_, lines)| line(lines)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cause_is_told_once_however_many_files_it_tore_and_its_numbers_differ() {
        let unsaved: Vec<String> = [
            "step_1.pt: it ends after 4096 of 9000 bytes",
            "best.pt: it is a link to /data/best.pt, outside",
            "step_2.pt: it ends after 12 of 9000 bytes",
            "step_3.pt: it ends after 0 of 9000 bytes",
        ]
        .map(str::to_owned)
        .to_vec();
        assert_eq!(
            once_each(&unsaved, 1),
            [
                "step_3.pt and 2 more: it ends after 0 of 9000 bytes",
                "best.pt: it is a link to /data/best.pt, outside",
            ]
        );
        assert_eq!(
            once_each(&unsaved, 9)[0],
            "step_3.pt, step_2.pt, step_1.pt: it ends after 0 of 9000 bytes"
        );
        assert_eq!(once_each(&unsaved[1..2], 1), unsaved[1..2]);
        assert_eq!(once_each(&[], 1), Vec::<String>::new());
    }
}
