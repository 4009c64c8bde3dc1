//! What needs more than one line: blocks, headings, ranks, the user's own expression.

use super::*;

fn read(log: &str, progress: Option<Progress>) -> (Vec<Seen>, Summary) {
    let mut reader = Reader::with(progress);
    let mut all = Vec::new();
    reader.feed(log.as_bytes(), &mut |seen| all.push(*seen));
    reader.end(&mut |seen| all.push(*seen));
    (all, reader.summary())
}

fn text(value: Option<crate::Text>) -> String {
    value.map_or_else(String::new, |text| text.as_str().to_owned())
}

#[test]
fn the_users_expression_is_the_only_judge_of_records() {
    let progress = Progress::new(
        r"^<<(?<step>\d+) of (?<total>\d+)>> cost (?<loss>\S+) at (?<tokens_per_s>[\d.]+)",
    )
    .unwrap();
    let log = "start\n\nstep 9: loss 9.0\n<<5 of 20>> cost 1.25 at 800.5 tps\n<<6 of 20>> cost 1.20 at 801.0 tps\n";
    let (seen, summary) = read(log, Some(progress));
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[1].line, 5);
    assert_eq!(seen[1].record.tokens_per_s, Some(801.0));
    assert_eq!(summary.step_records, 2);
    assert_eq!(text(summary.last_step), "6");
    assert_eq!(text(summary.total_steps), "20");
    assert_eq!(text(summary.last_loss), "1.20");
}

#[test]
fn ranks_are_told_by_what_launchers_write_before_a_line() {
    for (line, expected) in [
        ("[rank3]: step 5", Some(3)),
        ("[default7]:step 5", Some(7)),
        ("(Trainer pid=812) step 5", Some(812)),
        ("12: step 5", Some(12)),
        ("2024-01-01 step 5", None),
        ("step 5", None),
        ("", None),
    ] {
        assert_eq!(rank(line.as_bytes()), expected, "{line}");
    }
}

#[test]
fn copies_of_other_ranks_redraws_and_repeated_lines_count_once() {
    for (log, distinct, raw) in [
        (
            "[rank0]: step: 1 loss: 2.0 lr: 0.1\n[rank1]: step: 1 loss: 2.1 lr: 0.1\n[rank0]: step: 2 loss: 1.9 lr: 0.1\n[rank1]: step: 2 loss: 2.2 lr: 0.1\n",
            2,
            4,
        ),
        (
            "[rank0]: step: 1 loss: 2.0 lr: 0.1\n[rank0]: step: 2 loss: 1.9 lr: 0.1\n[rank1]: step: 1 loss: 2.1 lr: 0.1\n[rank1]: step: 2 loss: 2.2 lr: 0.1\n",
            2,
            4,
        ),
        (
            "{'loss': 2.0, 'epoch': 0.1}\n{'loss': 2.0, 'epoch': 0.1}\n{'loss': 2.0, 'epoch': 0.2}\n",
            2,
            3,
        ),
        // The second epoch has the same positions and other losses.
        (
            "[  1/2] loss: 2.0 lr: 0.1\n[  2/2] loss: 1.9 lr: 0.1\n[  1/2] loss: 1.8 lr: 0.1\n[  2/2] loss: 1.7 lr: 0.1\n",
            4,
            4,
        ),
    ] {
        let (_, summary) = read(log, None);
        assert_eq!(
            (summary.step_records, summary.raw_records),
            (distinct, raw),
            "{log}"
        );
    }
}

#[test]
fn lines_are_counted_by_line_feeds() {
    let log = "a\r\nb\n\nstep 1: loss 2.0, lr 0.1\r\nc\nstep 2: loss 1.0, lr 0.1";
    let (seen, _) = read(log, None);
    let lines: Vec<u64> = seen.iter().map(|seen| seen.line).collect();
    assert_eq!(lines, [4, 6]);
}
