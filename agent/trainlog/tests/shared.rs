//! Recorded logs, when a folder of them is at hand: others wrote them, so they are not in this repository. It holds a table of what
//! people read in them.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may hope, and tell"
)]

use std::{fs, path::PathBuf};

use spotter_trainlog::Reader;

#[path = "../../../tests/skip.rs"]
mod skip;

/// Columns of the table that a summary answers.
const COLUMNS: [&str; 12] = [
    "step_records",
    "raw_records",
    "bar_updates",
    "first_step",
    "last_step",
    "total_steps",
    "last_epoch",
    "last_loss",
    "last_lr",
    "last_throughput",
    "throughput_unit",
    "last_eta",
];

#[test]
fn real_logs_say_what_people_read_in_them() {
    let logs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/logs");
    let Ok(table) = fs::read_to_string(logs.join("index.tsv")) else {
        return skip::excuse("no folder of recorded logs is at hand");
    };
    let mut rows = table
        .lines()
        .map(|line| line.split('\t').collect::<Vec<_>>());
    let header = rows.next().unwrap();
    let column = |name: &str| header.iter().position(|column| *column == name).unwrap();

    let (mut values, mut right_values, mut blanks, mut right_blanks) = (0, 0, 0, 0);
    let mut wrong = Vec::new();
    let mut wrong_classes = Vec::new();
    for row in rows {
        let file = row[column("file")];
        let mut reader = Reader::default();
        reader.feed(&fs::read(logs.join(file)).unwrap(), &mut |_| {});
        reader.end(&mut |_| {});
        let summary = serde_json::to_value(reader.summary()).unwrap();
        for name in COLUMNS {
            let expected = row[column(name)];
            let got = match &summary[name] {
                serde_json::Value::Null => "-".to_owned(),
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let right = got == expected;
            if expected == "-" {
                blanks += 1;
                right_blanks += usize::from(right);
            } else {
                values += 1;
                right_values += usize::from(right);
            }
            if !right {
                wrong.push(format!("{file} {name}: {got} instead of {expected}"));
            }
        }
        let class = summary["failure_class"].as_str().unwrap();
        let expected = row[column("failure_class")];
        let also = row[column("also_ok")].split(',').any(|also| also == class);
        if class != expected && !also {
            wrong_classes.push(format!(
                "{file}: {class} instead of {expected}: {:?}",
                reader.diagnosis()
            ));
        }
    }
    println!(
        "{right_values} of {values} values, {right_blanks} of {blanks} blanks\n{}",
        wrong.join("\n")
    );
    assert_eq!(wrong_classes, [""; 0]);
    assert!(
        right_values * 100 >= values * 95,
        "{right_values} of {values} values"
    );
    assert!(
        right_blanks * 100 >= blanks * 98,
        "{right_blanks} of {blanks} blanks"
    );
}
