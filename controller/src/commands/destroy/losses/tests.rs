//! What is listed as lost, counted and summed up.

use super::*;

#[test]
fn checkpoints_are_listed_by_name_and_size_and_what_is_not_named_is_told() {
    let check =
        |at_stake: &[(&str, u64)], unsaved_bytes, pending, expected: &[(&str, Option<u64>)]| {
            let backup = BackupInfo {
                unsaved_bytes,
                pending,
                at_stake: at_stake
                    .iter()
                    .map(|(path, bytes)| ((*path).to_owned(), *bytes))
                    .collect(),
                unsaved: vec!["c.pt: it is a link to /d, outside".to_owned()],
                ..BackupInfo::default()
            };
            let found = of_backup(&backup);
            let found: Vec<(&str, Option<u64>)> = found
                .iter()
                .map(|loss| (loss.name.as_str(), loss.size_bytes))
                .collect();
            assert_eq!(found, expected);
        };
    check(&[], 0, 0, &[]);
    check(
        &[("a.pt", 7), ("b.pt", 5)],
        12,
        1,
        &[("a.pt", Some(7)), ("b.pt", Some(5))],
    );
    check(
        &[("a.pt", 7)],
        12,
        1,
        &[("a.pt", Some(7)), ("others", Some(5))],
    );
    check(
        &[("b.pt", 7), ("c.pt", 5)],
        12,
        0,
        &[
            ("b.pt", Some(7)),
            ("c.pt: it is a link to /d, outside", Some(5)),
        ],
    );
    check(
        &[
            ("best.pt", 9),
            ("checkpoint-20", 7),
            ("checkpoint-100", 5),
            ("checkpoint-40", 5),
        ],
        30,
        0,
        &[
            ("checkpoint-100", Some(5)),
            ("checkpoint-40", Some(5)),
            ("checkpoint-20", Some(7)),
            ("best.pt", Some(9)),
            ("others", Some(4)),
        ],
    );
    // Agents that know no names.
    check(&[], 12, 1, &[("all of them together", Some(12))]);
    check(&[], 0, 2, &[("2 that wait for their upload", None)]);
}

#[test]
fn checkpoints_without_names_are_counted_where_their_number_is_known() {
    for (pending, unsaved, expected) in [
        (2, None, "2 checkpoints that are in no bucket (12 B)"),
        (1, None, "1 checkpoint that is in no bucket (12 B)"),
        (0, None, "checkpoints that are in no bucket (12 B)"),
        (
            1,
            Some("a link"),
            "checkpoints that are in no bucket (12 B)",
        ),
    ] {
        let backup = BackupInfo {
            unsaved_bytes: 12,
            pending,
            unsaved: unsaved.map(str::to_owned).into_iter().collect(),
            ..BackupInfo::default()
        };
        let found = in_words(&of_backup(&backup));
        assert_eq!(found, expected, "{pending} {unsaved:?}");
    }
}

#[test]
fn losses_are_summed_up_in_one_clause() {
    let losses = [
        Loss::new(What::Checkpoint, "a.pt", Some(1 << 30)),
        Loss::new(What::Checkpoint, "b.pt", Some(1 << 30)),
        Loss::new(What::Result, "out/final.pt", Some(1536)),
        Loss::new(What::Log, "train", None),
    ];
    assert_eq!(
        in_words(&losses),
        "2 checkpoints that are in no bucket (2.0 GiB), 1 result that was not fetched (1.5 KiB), \
         1 end of a log that was not copied"
    );
    assert_eq!(in_words(&[]), "");
    let check = |losses: &[Loss], expected: &str| assert_eq!(in_words(losses), expected);
    let others = || Loss::nameless("others", Some(1 << 30), None);
    check(
        &[losses[0].clone(), losses[1].clone(), others()],
        "more than 2 checkpoints that are in no bucket (3.0 GiB)",
    );
    check(
        &[losses[0].clone(), others()],
        "more than 1 checkpoint that is in no bucket (2.0 GiB)",
    );
    check(&[others()], "checkpoints that are in no bucket (1.0 GiB)");
    check(
        &[Loss::nameless("2 that wait", None, Some(2))],
        "2 checkpoints that are in no bucket",
    );
}

#[test]
fn a_result_is_here_when_the_very_same_bytes_are() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a"), "weights").unwrap();
    let check = |path: &str, content: &str, expected| {
        let file = FileHash {
            path: path.to_owned(),
            size_bytes: content.len() as u64,
            blake3: blake3::hash(content.as_bytes()).to_hex().to_string(),
        };
        assert_eq!(is_here(&file, dir.path()).unwrap_or(false), expected);
    };
    check("a", "weights", true);
    check("a", "weighty", false);
    check("a", "weight", false);
    check("b", "weights", false);
}
