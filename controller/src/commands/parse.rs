//! `parse`: reads a training log as spotter does, so that people can check what it makes of theirs.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read},
    path::PathBuf,
};

use serde::Serialize;
use spotter_trainlog::{
    GROUPS, Printed, Progress, ProgressError, Reader, Seen, SeenKind, Summary, Text,
    failure::{Diagnosis, Explanation, Facts, explain},
};

use crate::{
    error::CommandError,
    ui::{Table, Ui},
};

/// Show what spotter reads in a training log: steps, losses, rates, and what ended it
///
/// Reads any log, also one that was never near a box. Copies by other ranks and redraws of a bar are left out.
#[derive(Debug, clap::Args)]
pub struct ParseArgs {
    /// The log; `-` reads stdin
    file: PathBuf,
    /// One row for the whole log
    #[arg(long)]
    summary: bool,
    /// Take lines that match this expression as records, and no others
    ///
    /// Its groups `step`, `total`, `epoch`, `loss`, `lr`, `tokens_per_s`, `samples_per_s` and `step_time_s` are the values.
    #[arg(long, value_name = "EXPRESSION")]
    regex: Option<String>,
}

/// Records that a table shows: a log may have millions, and the last say most.
const TABLE_ROWS: usize = 2000;
/// Bytes read at once.
const CHUNK_BYTES: usize = 256 << 10;
/// A record, as one line of JSON.
#[derive(Serialize)]
struct Row {
    line: u64,
    kind: &'static str,
    step: Option<Text>,
    total_steps: Option<Text>,
    epoch: Option<Text>,
    loss: Option<Text>,
    eval_loss: Option<Text>,
    lr: Option<Text>,
    grad_norm: Option<Text>,
    throughput: Option<Text>,
    throughput_unit: Option<&'static str>,
    eta: Option<Text>,
}

/// What ended the log, as one line of JSON.
#[derive(Serialize)]
struct Failure<'a> {
    kind: &'static str,
    failure_class: &'static str,
    line: u64,
    evidence: &'a str,
    meaning: &'a str,
    advice: &'a str,
}

/// Runs the verb.
pub fn parse(ui: &mut Ui, args: &ParseArgs) -> Result<(), CommandError> {
    let progress = args.regex.as_deref().map(expression).transpose()?;
    let mut reader = Reader::with(progress);
    if args.summary {
        read(args, &mut |bytes| reader.feed(bytes, &mut |_| {}))?;
        reader.end(&mut |_| {});
        ui.show(&reader.summary(), summary_table);
    } else if ui.is_json() {
        // Printed as it is read: a log may be larger than memory.
        let mut print = |seen: &Seen| {
            if !seen.repeated {
                ui.json(&row(seen));
            }
        };
        read(args, &mut |bytes| reader.feed(bytes, &mut print))?;
        reader.end(&mut print);
    } else {
        let mut rows = VecDeque::new();
        let mut left_out = 0_u64;
        let mut keep = |seen: &Seen| {
            if seen.repeated {
                return;
            }
            if rows.len() == TABLE_ROWS {
                rows.pop_front();
                left_out += 1;
            }
            rows.push_back(row(seen));
        };
        read(args, &mut |bytes| reader.feed(bytes, &mut keep))?;
        reader.end(&mut keep);
        show_rows(ui, &rows, left_out);
    }
    if let Some(found) = reader.diagnosis() {
        let last_step = reader.summary().last_step;
        let facts = Facts {
            last_step: last_step.and_then(|step| step.as_str().parse().ok()),
            ..Facts::default()
        };
        show_failure(ui, &found, &facts, args.summary);
    }
    Ok(())
}

/// Hands over the file in pieces.
fn read(args: &ParseArgs, sink: &mut dyn FnMut(&[u8])) -> Result<(), CommandError> {
    let shown = args.file.display();
    let refused = |err: io::Error| CommandError::new(format!("`{shown}` was not read")).cause(err);
    let mut source: Box<dyn Read> = if args.file.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(&args.file).map_err(refused)?)
    };
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match source.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(length) => sink(&chunk[..length]),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(refused(err)),
        }
    }
}

/// The user's expression, if it can be one.
fn expression(text: &str) -> Result<Progress, CommandError> {
    Progress::new(text).map_err(|err| {
        let hint = match &err {
            ProgressError::Unknown(_) => format!("groups are {}", GROUPS.join(", ")),
            _ => {
                r"name what it finds, as in `iteration (?<step>\d+) of (?<total>\d+): (?<loss>\S+)`"
                    .to_owned()
            }
        };
        CommandError::usage(format!("--regex: `{text}` cannot be used"))
            .cause(err)
            .hint(hint)
    })
}

fn row(seen: &Seen) -> Row {
    let record = &seen.record;
    let text = |value: Option<Printed>| value.map(|value| value.text);
    let training = seen.kind != SeenKind::Evaluation;
    let shown = |value: Option<Printed>| text(value.filter(|_| training));
    Row {
        line: seen.line,
        kind: match seen.kind {
            SeenKind::Record => "train",
            SeenKind::Bar => "bar",
            SeenKind::Evaluation => "eval",
        },
        step: shown(record.step),
        total_steps: shown(record.total_steps),
        epoch: text(record.epoch),
        loss: shown(record.loss),
        eval_loss: text(record.eval_loss),
        lr: text(record.learning_rate),
        grad_norm: text(record.grad_norm),
        throughput: record.throughput.map(|speed| speed.value.text),
        throughput_unit: record.throughput.map(|speed| speed.unit.as_str()),
        eta: record.remaining,
    }
}

fn show_rows(ui: &mut Ui, rows: &VecDeque<Row>, left_out: u64) {
    if rows.is_empty() {
        ui.status(format_args!("No training record was found."));
        return;
    }
    let mut table = Table::new(&[
        "LINE>",
        "WHAT",
        "STEP>",
        "EPOCH>",
        "LOSS>",
        "EVAL LOSS>",
        "LR>",
        "SPEED>",
        "LEFT>",
    ]);
    for row in rows {
        table.row(cells(row));
    }
    ui.table(&table);
    if left_out > 0 {
        ui.status(format_args!(
            "{left_out} earlier records are left out; `--json` prints all."
        ));
    }
}

fn cells(row: &Row) -> [String; 9] {
    let text = |value: Option<Text>| value.map_or_else(String::new, |text| text.to_string());
    let step = match (row.step, row.total_steps) {
        (Some(step), Some(total)) => format!("{step}/{total}"),
        (step, _) => text(step),
    };
    let speed = match (row.throughput, row.throughput_unit) {
        (Some(value), Some(unit)) => format!("{value} {unit}"),
        _ => String::new(),
    };
    [
        row.line.to_string(),
        row.kind.to_owned(),
        step,
        text(row.epoch),
        text(row.loss),
        text(row.eval_loss),
        text(row.lr),
        speed,
        text(row.eta),
    ]
}

fn summary_table(summary: &Summary) -> Table {
    let text = |value: Option<Text>| value.map_or_else(|| "-".to_owned(), |text| text.to_string());
    let mut table = Table::new(&["WHAT", "VALUE"]);
    for (name, value) in [
        ("step_records", summary.step_records.to_string()),
        ("raw_records", summary.raw_records.to_string()),
        (
            "bar_updates",
            summary
                .bar_updates
                .map_or_else(|| "-".to_owned(), |count| count.to_string()),
        ),
        ("first_step", text(summary.first_step)),
        ("last_step", text(summary.last_step)),
        ("total_steps", text(summary.total_steps)),
        ("last_epoch", text(summary.last_epoch)),
        ("last_loss", text(summary.last_loss)),
        ("last_lr", text(summary.last_lr)),
        ("last_throughput", text(summary.last_throughput)),
        (
            "throughput_unit",
            summary
                .throughput_unit
                .map_or("-", |unit| unit.as_str())
                .to_owned(),
        ),
        ("last_eta", text(summary.last_eta)),
        ("failure_class", summary.failure_class.to_string()),
    ] {
        table.row([name.to_owned(), value]);
    }
    table
}

/// Data for programs; for people a few lines beside the table. The one object of a summary has the class already.
fn show_failure(ui: &mut Ui, found: &Diagnosis, facts: &Facts, summary: bool) {
    let Explanation { meaning, advice } = explain(found, facts);
    if ui.is_json() && !summary {
        ui.json(&Failure {
            kind: "failure",
            failure_class: found.class.as_str(),
            line: found.line,
            evidence: &found.evidence,
            meaning: &meaning,
            advice: &advice,
        });
    }
    let place = match found.line {
        0 => String::new(),
        line => format!(" (line {line})"),
    };
    ui.status(format_args!(
        "Ended by {}{place}: {}",
        found.class, found.evidence
    ));
    ui.status(format_args!(
        "{}{}.",
        meaning[..1].to_uppercase(),
        &meaning[1..]
    ));
    ui.hint(format_args!("{advice}"));
}
