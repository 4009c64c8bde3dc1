//! Observations as a table of runs and as JSON lines, and back (pure). Bad input is refused with its line and its column or field.

use std::fmt::{Display, Write as _};

use serde_json::{Map, Value};

use crate::{
    estimate::{
        job::{Job, Optimizer},
        published::Published,
        table::{Cells, Table, TableError},
    },
    spec::{Model, model::Attention, nearest},
    store::{Observation, ObservationRecord, Source},
};

/// Columns of the table, those of published runs first.
const COLUMNS: [&str; 34] = [
    "id",
    "model",
    "params_total",
    "params_trainable",
    "method",
    "seq_len",
    "micro_batch",
    "global_batch_tokens",
    "precision",
    "gpu",
    "num_gpus",
    "tokens_per_s_total",
    "tokens_per_s_per_gpu",
    "peak_vram_gb_per_gpu",
    "optimizer",
    "notes",
    "source",
    "run",
    "attempt",
    "code",
    "observed_us",
    "machine_id",
    "steps_per_s",
    "predicted_tokens_per_s",
    "gpu_utilisation_percent",
    "peak_ram_gb",
    "setup_s",
    "debug_s",
    "trained_s",
    "down_mbps",
    "advertised_down_mbps",
    "up_mbps",
    "advertised_up_mbps",
    "stack",
];

/// Fields of JSON lines that hold a number.
const NUMBERS: [&str; 13] = [
    "tokens_per_s",
    "predicted_tokens_per_s",
    "steps_per_s",
    "gpu_utilisation_percent",
    "peak_vram_gib",
    "peak_ram_gb",
    "setup_s",
    "debug_s",
    "trained_s",
    "down_mbps",
    "advertised_down_mbps",
    "up_mbps",
    "advertised_up_mbps",
];
/// Fields that hold a whole number.
const COUNTS: [&str; 4] = ["attempt", "num_gpus", "machine_id", "observed_us"];
/// Fields that hold text.
const TEXTS: [&str; 4] = ["run", "gpu", "code", "note"];
/// Fields that are known and hold something else, or nothing that is taken.
const OTHERS: [&str; 4] = ["id", "edited", "source", "model"];

/// Longest name or note.
const MAX_TEXT: usize = 1000;

/// One JSON object a line.
pub(super) fn json_lines(all: &[ObservationRecord]) -> String {
    let mut text = String::new();
    for record in all {
        let line = serde_json::to_string(record).expect("an observation is plain data");
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// The table, and how many observations it holds: those that say what was trained.
pub(super) fn table(all: &[ObservationRecord]) -> (String, usize) {
    let mut text = COLUMNS.join("\t");
    text.push('\n');
    let mut written = 0;
    for record in all {
        let Some(model) = &record.seen.model else {
            continue;
        };
        let cells = COLUMNS.map(|column| cell(record, model, column));
        writeln!(text, "{}", cells.join("\t")).expect("a String takes everything");
        written += 1;
    }
    (text, written)
}

fn cell(record: &ObservationRecord, model: &Model, column: &str) -> String {
    fn or_empty(value: Option<impl Display>) -> String {
        value.map_or_else(String::new, |value| value.to_string())
    }
    let plain = |text: &str| text.replace(char::is_control, " ");
    let seen = &record.seen;
    let gpus = seen.num_gpus.map(f64::from);
    match column {
        "id" => format!("{}-{}", plain(&seen.run), record.id),
        "model" => plain(model.name.as_deref().unwrap_or_default()),
        "params_total" => model.params.to_string(),
        "params_trainable" => or_empty(model.trainable_params),
        "method" => word(&model.method),
        "seq_len" => or_empty(model.seq_len),
        "micro_batch" => or_empty(model.micro_batch),
        "global_batch_tokens" => or_empty(model.batch_tokens),
        "precision" => word(&model.precision),
        "gpu" => plain(&seen.gpu),
        "num_gpus" => or_empty(seen.num_gpus),
        "tokens_per_s_total" => or_empty(seen.tokens_per_s),
        "tokens_per_s_per_gpu" => or_empty(
            seen.tokens_per_s
                .zip(gpus)
                .map(|(speed, gpus)| speed / gpus),
        ),
        "peak_vram_gb_per_gpu" => or_empty(seen.peak_vram_gib),
        "optimizer" => optimizer(model.optimizer).to_owned(),
        "notes" => plain(seen.note.as_deref().unwrap_or_default()),
        "source" => seen.source.name().to_owned(),
        "run" => plain(&seen.run),
        "attempt" => or_empty(seen.attempt),
        "code" => or_empty(seen.code.as_ref()),
        "observed_us" => or_empty(Some(seen.observed_us).filter(|us| *us > 0)),
        "machine_id" => or_empty(seen.machine_id),
        "steps_per_s" => or_empty(seen.steps_per_s),
        "predicted_tokens_per_s" => or_empty(seen.predicted_tokens_per_s),
        "gpu_utilisation_percent" => or_empty(seen.gpu_utilisation_percent),
        "peak_ram_gb" => or_empty(seen.peak_ram_gb),
        "setup_s" => or_empty(seen.setup_s),
        "debug_s" => or_empty(seen.debug_s),
        "trained_s" => or_empty(seen.trained_s),
        "down_mbps" => or_empty(seen.down_mbps),
        "advertised_down_mbps" => or_empty(seen.advertised_down_mbps),
        "up_mbps" => or_empty(seen.up_mbps),
        "advertised_up_mbps" => or_empty(seen.advertised_up_mbps),
        _ => plain(model.stack.as_deref().unwrap_or_default()),
    }
}

/// A name as serde writes it.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

/// As tables of runs call it.
fn optimizer(optimizer: Optimizer) -> &'static str {
    match optimizer {
        Optimizer::Adam => "AdamW",
        Optimizer::Adam8bit => "AdamW 8bit",
        Optimizer::PagedAdam8bit => "paged AdamW 8bit",
        Optimizer::Muon => "Muon",
        Optimizer::Momentum => "momentum",
        Optimizer::Stateless => "SGD",
    }
}

/// Reads a table, or JSON lines where the first character is `{`. The error begins with the line, and the column where it is known.
pub(super) fn parse(text: &str) -> Result<Vec<Observation>, String> {
    match text.trim_start().starts_with('{') {
        true => parse_json(text),
        false => parse_table(text).map_err(|err| err.to_string()),
    }
}

fn parse_table(text: &str) -> Result<Vec<Observation>, TableError> {
    let published = Published::parse(text)?;
    let table = Table::parse(text)?;
    published
        .iter()
        .zip(table.rows())
        .map(|(run, cells)| from_row(run, &cells))
        .collect()
}

fn from_row(run: &Published, cells: &Cells<'_>) -> Result<Observation, TableError> {
    let amount = |column: &str| amount(cells, column);
    let whole = |column: &str| {
        let found = amount(column)?;
        match found {
            Some(number) if number.fract() != 0.0 || number > 9e15 => {
                Err(cells.error(column, &format!("`{column}` is a whole number")))
            }
            found => Ok(found.map(|number| number as u64)),
        }
    };
    let named = match cells.text("run") {
        "" => &run.id,
        name => name,
    };
    let mut seen = Observation::new(Source::Imported, named, &run.gpu_name, 0);
    if let Some(us) = whole("observed_us")? {
        seen.observed_us = us as i64;
    }
    seen.attempt = whole("attempt")?.and_then(|number| u32::try_from(number).ok());
    seen.code = Some(cells.text("code").to_owned()).filter(|code| !code.is_empty());
    seen.model = Some(model_of(run, cells));
    seen.num_gpus = run.num_gpus;
    seen.machine_id = whole("machine_id")?;
    let total = cells
        .number("tokens_per_s_total")?
        .map(|stated| stated.value);
    let per_gpu = run.observed.speed().zip(run.num_gpus);
    seen.tokens_per_s = total.or(per_gpu.map(|(speed, gpus)| speed * f64::from(gpus)));
    seen.predicted_tokens_per_s = amount("predicted_tokens_per_s")?;
    seen.steps_per_s = amount("steps_per_s")?;
    seen.gpu_utilisation_percent = amount("gpu_utilisation_percent")?;
    seen.peak_vram_gib = run.observed.peak_gib;
    seen.peak_ram_gb = amount("peak_ram_gb")?;
    seen.setup_s = amount("setup_s")?;
    seen.debug_s = amount("debug_s")?;
    seen.trained_s = amount("trained_s")?;
    seen.down_mbps = amount("down_mbps")?;
    seen.advertised_down_mbps = amount("advertised_down_mbps")?;
    seen.up_mbps = amount("up_mbps")?;
    seen.advertised_up_mbps = amount("advertised_up_mbps")?;
    seen.note = Some(cells.text("notes").to_owned()).filter(|note| !note.is_empty());
    if let Some((field, why)) = fault(&seen) {
        return Err(cells.error(field, &why));
    }
    Ok(seen)
}

/// A number that may be 0; `None` for an empty cell.
fn amount(cells: &Cells<'_>, column: &str) -> Result<Option<f64>, TableError> {
    match cells.text(column) {
        "" => Ok(None),
        text => match text.parse::<f64>() {
            Ok(number) if number >= 0.0 && number.is_finite() => Ok(Some(number)),
            _ => {
                let why = format!("`{column}` is a number, 0 or above, not `{text}`");
                Err(cells.error(column, &why))
            }
        },
    }
}

/// The key `model` that a row of a table comes to.
fn model_of(run: &Published, cells: &Cells<'_>) -> Model {
    let job: &Job = &run.job;
    let whole = |value: Option<f64>| value.map(|value| value.round().max(1.0) as u32);
    let stack = match cells.text("stack") {
        "" => job.stack.map(|stack| stack.name.to_owned()),
        stack => Some(stack.to_owned()),
    };
    Model {
        name: Some(run.model.clone()).filter(|name| !name.is_empty()),
        params: job.params,
        active_params: Some(job.active_params).filter(|active| *active < job.params),
        trainable_params: job.trainable_params,
        method: job.method,
        precision: job.precision,
        tokens: run.observed.tokens,
        seq_len: whole(job.seq_len),
        micro_batch: whole(job.micro_batch),
        batch_tokens: job.batch_tokens,
        layers: whole(job.shape.map(|shape| shape.layers)),
        hidden: whole(job.shape.map(|shape| shape.hidden)),
        vocab: None,
        optimizer: job.optimizer,
        offload: job.offload,
        recompute: job.recompute,
        compile: job.compile,
        sharding: job.layout.sharding,
        attention: match job.flash_attention {
            true => Attention::Sdpa,
            false => Attention::Stored,
        },
        stack,
        download_gb: 0.0,
        setup_hours: None,
    }
}

fn parse_json(text: &str) -> Result<Vec<Observation>, String> {
    (1..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| from_json(line).map_err(|why| format!("{number}: {why}")))
        .collect()
}

fn from_json(line: &str) -> Result<Observation, String> {
    let value: Value = serde_json::from_str(line)
        .map_err(|err| format!("character {}: this is no JSON object", err.column()))?;
    let Value::Object(fields) = value else {
        return Err("this is no JSON object".to_owned());
    };
    let known = || NUMBERS.iter().chain(&COUNTS).chain(&TEXTS).chain(&OTHERS);
    for key in fields.keys() {
        if !known().any(|name| name == key) {
            let near = nearest(key, known().copied());
            let near = near.map_or_else(String::new, |near| format!("; do you mean `{near}`?"));
            return Err(format!("there is no field `{key}`{near}"));
        }
    }
    let needed = |name: &str| text_of(&fields, name)?.ok_or(format!("`{name}` is missing"));
    let number = |name: &str| number_of(&fields, name);
    let count = |name: &str| match number_of(&fields, name)? {
        Some(number) if number.fract() != 0.0 || number > 9e15 => {
            Err(format!("`{name}` is a whole number"))
        }
        found => Ok(found.map(|number| number as u64)),
    };
    let small = |name: &str| {
        let found = count(name)?;
        found
            .map(|number| u32::try_from(number).map_err(|_| format!("`{name}` is too large")))
            .transpose()
    };
    let mut seen = Observation::new(Source::Imported, &needed("run")?, &needed("gpu")?, 0);
    seen.observed_us = count("observed_us")?.unwrap_or(0) as i64;
    seen.attempt = small("attempt")?;
    seen.code = text_of(&fields, "code")?;
    seen.model = match fields.get("model") {
        None | Some(Value::Null) => None,
        Some(model) => {
            Some(serde_json::from_value(model.clone()).map_err(|err| format!("`model`: {err}"))?)
        }
    };
    seen.num_gpus = small("num_gpus")?;
    seen.machine_id = count("machine_id")?;
    seen.tokens_per_s = number("tokens_per_s")?;
    seen.predicted_tokens_per_s = number("predicted_tokens_per_s")?;
    seen.steps_per_s = number("steps_per_s")?;
    seen.gpu_utilisation_percent = number("gpu_utilisation_percent")?;
    seen.peak_vram_gib = number("peak_vram_gib")?;
    seen.peak_ram_gb = number("peak_ram_gb")?;
    seen.setup_s = number("setup_s")?;
    seen.debug_s = number("debug_s")?;
    seen.trained_s = number("trained_s")?;
    seen.down_mbps = number("down_mbps")?;
    seen.advertised_down_mbps = number("advertised_down_mbps")?;
    seen.up_mbps = number("up_mbps")?;
    seen.advertised_up_mbps = number("advertised_up_mbps")?;
    seen.note = text_of(&fields, "note")?;
    match fault(&seen) {
        Some((_, why)) => Err(why),
        None => Ok(seen),
    }
}

fn number_of(fields: &Map<String, Value>, name: &str) -> Result<Option<f64>, String> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(number) if number >= 0.0 => Ok(Some(number)),
            _ => Err(format!("`{name}` is a number, 0 or above, not `{value}`")),
        },
    }
}

fn text_of(fields: &Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(value) => Err(format!("`{name}` is text, not `{value}`")),
    }
}

/// What no observation may say: where, and why.
fn fault(seen: &Observation) -> Option<(&'static str, String)> {
    let texts = [
        ("run", Some(&seen.run)),
        ("gpu", Some(&seen.gpu)),
        ("code", seen.code.as_ref()),
        ("notes", seen.note.as_ref()),
    ];
    for (field, text) in texts {
        let Some(text) = text else { continue };
        if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
            return Some((
                field,
                format!("`{field}` has control characters, or is longer than {MAX_TEXT} bytes"),
            ));
        }
        if text.trim().is_empty() {
            return Some((field, format!("`{field}` is empty")));
        }
    }
    if seen.num_gpus == Some(0) {
        return Some(("num_gpus", "`num_gpus` is 1 or more".to_owned()));
    }
    if seen
        .gpu_utilisation_percent
        .is_some_and(|used| used > 100.0)
    {
        let why = "`gpu_utilisation_percent` is from 0 to 100".to_owned();
        return Some(("gpu_utilisation_percent", why));
    }
    let params = seen.model.as_ref().map(|model| model.params);
    if params.is_some_and(|params| !(1.0..=1e18).contains(&params)) {
        return Some((
            "params_total",
            "`model.params` is from 1 to 1e18".to_owned(),
        ));
    }
    None
}

#[cfg(test)]
mod tests;
