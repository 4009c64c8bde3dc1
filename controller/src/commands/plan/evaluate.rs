//! `plan --evaluate`: how far the estimator is off on a table of runs that somebody else made.

use std::{fs, path::Path};

use super::figures::{self, percent};
use crate::{
    error::CommandError,
    estimate::{
        evaluate::{self, Compared, Evaluation, Method, Spread, Verdicts},
        published::Published,
    },
    ui::{Table, Ui, text},
};

/// Longest table that is read.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Predicts every run of a table and shows how far off it was.
pub(super) fn evaluate(ui: &mut Ui, file: &Path, method: Method) -> Result<(), CommandError> {
    let text = read(file)?;
    let refused = |err| CommandError::usage(format!("{}:{err}", file.display()));
    for column in Published::unknown_columns(&text).map_err(refused)? {
        ui.warning(format_args!(
            "the column `{column}` means nothing to spotter and is left out"
        ));
    }
    let (runs, unread) = Published::parse_rows(&text).map_err(refused)?;
    if let (true, Some(first)) = (runs.is_empty(), unread.first()) {
        return Err(refused(first.why.clone()));
    }
    let evaluation = evaluate::evaluate(&runs, method).with_refused(unread);
    if ui.is_json() {
        ui.json(&evaluation);
        return Ok(());
    }
    ui.table(&rows(&evaluation));
    for row in &evaluation.rows {
        if let Some(why) = &row.not_predicted {
            ui.warning(format_args!("`{}` is not predicted: {why}", row.id));
        }
    }
    ui.line(format_args!(""));
    ui.table(&summary(&evaluation));
    if let Some(verdicts) = evaluation.summary.verdicts {
        ui.line(format_args!(""));
        ui.table(&cards(&verdicts));
    }
    ui.status(format_args!(
        "Method `{}`. No row was predicted with figures of its own source; a range claims to hold 80 %.",
        method.name()
    ));
    Ok(())
}

fn read(file: &Path) -> Result<String, CommandError> {
    let unreadable = |why: String| {
        CommandError::usage(format!(
            "the table `{}` cannot be read: {why}",
            file.display()
        ))
    };
    let size = fs::metadata(file)
        .map_err(|err| unreadable(err.to_string()))?
        .len();
    if size > MAX_FILE_BYTES {
        return Err(unreadable(format!(
            "it has {size} bytes; at most {MAX_FILE_BYTES} are read"
        )));
    }
    fs::read_to_string(file).map_err(|err| unreadable(err.to_string()))
}

fn rows(evaluation: &Evaluation) -> Table {
    let mut table = Table::new(&[
        "ROW",
        "GPU",
        "TOK/S/GPU>",
        "RANGE>",
        "ACTUAL>",
        "ERROR>",
        "PEAK>",
        "ACTUAL>",
    ]);
    for row in &evaluation.rows {
        let speed = row.tokens_per_s_per_gpu;
        let actual = |compared: Option<Compared>| compared.and_then(|compared| compared.actual);
        table.row([
            row.id.clone(),
            row.gpu.clone().unwrap_or_else(|| "-".to_owned()),
            text::or_dash(speed.map(|speed| figures::count(speed.predicted))),
            text::or_dash(speed.map(|speed| {
                format!(
                    "{}-{}",
                    figures::count(speed.low),
                    figures::count(speed.high)
                )
            })),
            text::or_dash(actual(speed).map(figures::count)),
            text::or_dash(row.error.map(|error| format!("{:+.0}%", error * 100.0))),
            text::or_dash(
                row.peak_vram_gib
                    .map(|peak| format!("{:.1}G", peak.predicted)),
            ),
            text::or_dash(actual(row.peak_vram_gib).map(|peak| format!("{peak:.1}G"))),
        ]);
    }
    table
}

fn summary(evaluation: &Evaluation) -> Table {
    let mut table = Table::new(&["PREDICTED", "ROWS>", "MEDIAN ERROR>", "P90>", "IN RANGE>"]);
    let summary = &evaluation.summary;
    let lines: [(&str, Option<Spread>); 5] = [
        (
            "tokens/s, or hours where only those are known",
            summary.error,
        ),
        ("tokens/s", summary.tokens_per_s),
        ("hours", summary.hours),
        ("peak VRAM", summary.peak_vram),
        ("tokens/s, carried over from another GPU", summary.transfer),
    ];
    for (name, spread) in lines {
        let Some(spread) = spread else {
            continue;
        };
        table.row([
            name.to_owned(),
            spread.rows.to_string(),
            percent(spread.median),
            percent(spread.p90),
            percent(spread.coverage),
        ]);
    }
    table
}

fn cards(verdicts: &Verdicts) -> Table {
    let mut table = Table::new(&[
        "VERDICT ON CARDS OF 8 TO 141 GB",
        "PAIRS>",
        "WRONG>",
        "SHARE>",
    ]);
    table.row([
        "fits".to_owned(),
        verdicts.fits.to_string(),
        verdicts.false_fits.to_string(),
        format!(
            "{} of those that did not",
            percent(verdicts.false_fits_share)
        ),
    ]);
    table.row([
        "tight".to_owned(),
        verdicts.tight.to_string(),
        "-".to_owned(),
        "-".to_owned(),
    ]);
    table.row([
        "does not fit".to_owned(),
        verdicts.does_not_fit.to_string(),
        verdicts.false_does_not_fit.to_string(),
        format!(
            "{} of those that did",
            percent(verdicts.false_does_not_fit_share)
        ),
    ]);
    table
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::ui::{UiOptions, paper::Paper};

    /// What evaluating a table prints to stdout and stderr.
    fn evaluated(text: &str, json: bool) -> Result<(String, String), CommandError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("runs.tsv");
        fs::write(&file, text).unwrap();
        let (out, err) = (Paper::default(), Paper::default());
        let options = UiOptions {
            json,
            ..UiOptions::default()
        };
        let mut ui = Ui::to(Box::new(out.clone()), Box::new(err.clone()), options);
        evaluate(&mut ui, &file, Method::Calibrated)?;
        Ok((out.text(), err.text()))
    }

    const SHIPPED: &str = include_str!("../../../data/published-runs.tsv");

    #[test]
    fn the_shipped_table_is_judged_on_one_screen_and_as_one_line_of_json() {
        let (table, note) = evaluated(SHIPPED, false).unwrap();
        assert!(
            table.lines().all(|line| line.chars().count() <= 100),
            "{table}"
        );
        assert!(table.contains("carried over from another GPU"), "{table}");
        assert!(note.contains("own source"), "{note}");
        let (line, _) = evaluated(SHIPPED, true).unwrap();
        let found: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line.lines().count(), 1);
        assert_eq!(found["method"], "calibrated");
        let row = &found["rows"][0];
        assert_eq!(row["id"], "mosaic-01");
        assert_eq!(row["tokens_per_s"]["actual"].as_f64(), Some(1007.0 * 512.0));
        assert_eq!(
            found["rows"].as_array().unwrap().len(),
            found["summary"]["rows"].as_u64().unwrap() as usize
        );
    }

    #[test]
    fn the_order_of_columns_changes_nothing() {
        let turned: String = SHIPPED
            .lines()
            .map(|line| {
                let mut cells: Vec<&str> = line.split('\t').collect();
                cells.resize(21, "");
                cells.reverse();
                cells.join("\t") + "\n"
            })
            .collect();
        assert_eq!(
            evaluated(&turned, true).unwrap().0,
            evaluated(SHIPPED, true).unwrap().0
        );
    }

    #[test]
    fn a_row_that_cannot_be_read_is_named_with_its_place_and_the_others_are_predicted() {
        let bad = SHIPPED.replacen("12853954560", "many", 1);
        let (line, _) = evaluated(&bad, true).unwrap();
        let found: Value = serde_json::from_str(&line).unwrap();
        let row = &found["rows"][5];
        assert_eq!(row["id"], "mosaic-06");
        let why = row["not_predicted"].as_str().unwrap();
        assert!(why.starts_with("7:19: `params_total`"), "{why}");
        assert_eq!(found["summary"]["not_predicted"], 1);
        assert_eq!(
            found["summary"]["rows"].as_u64().unwrap() as usize,
            SHIPPED.lines().count() - 1
        );
        let (_, note) = evaluated(&bad, false).unwrap();
        assert!(
            note.contains("`mosaic-06` is not predicted: 7:19"),
            "{note}"
        );
    }

    #[test]
    fn a_table_of_which_no_row_can_be_read_is_refused_with_file_line_and_column() {
        let error = evaluated("params_total\tgpu\nmany\tH100\n", false).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(
            error.message().contains("runs.tsv:2:1: `params_total`"),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_column_is_said_and_left_out() {
        let (_, note) =
            evaluated("id\tparams_total\tgpu\tcolour\na\t1e9\tH100\tred\n", false).unwrap();
        assert!(note.contains("`colour` means nothing"), "{note}");
    }
}
