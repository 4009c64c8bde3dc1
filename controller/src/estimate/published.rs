//! Tables of runs that somebody published: what was trained, on what, and what was observed (pure).

use std::{collections::BTreeSet, sync::LazyLock};

use super::{
    gpus::{Gpu, Gpus},
    job::{Job, Machine, Method, Precision},
    notes,
    stacks::Stack,
    table::{Cells, Stated, Table, TableError, unmarked},
};

/// Columns that a table of runs may have.
pub const COLUMNS: [&str; 21] = [
    "id",
    "model",
    "params_total",
    "params_trainable",
    "method",
    "tokens_trained",
    "seq_len",
    "micro_batch",
    "global_batch_tokens",
    "precision",
    "gpu",
    "num_gpus",
    "tokens_per_s_total",
    "tokens_per_s_per_gpu",
    "mfu_stated",
    "wall_hours",
    "gpu_hours",
    "peak_vram_gb_per_gpu",
    "optimizer",
    "notes",
    "source",
];

/// A published run.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// Its name in the table.
    pub id: String,
    /// Name of the model.
    pub model: String,
    /// Where it was published.
    pub source: String,
    /// The GPU's name as the table has it.
    pub gpu_name: String,
    /// What was trained.
    pub job: Job,
    /// The GPU, where it is known to us.
    pub gpu: Option<&'static Gpu>,
    /// How many.
    pub num_gpus: Option<u32>,
    /// What was observed.
    pub observed: Observed,
    /// A figure that memory depends on is marked `?`: method, precision, GPU or the peak itself.
    pub doubtful_memory: bool,
}

/// What was observed of a published run.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Observed {
    /// Tokens per second and GPU, as stated.
    pub tokens_per_s_per_gpu: Option<f64>,
    /// Tokens trained in all.
    pub tokens: Option<f64>,
    /// Hours from start to end.
    pub wall_hours: Option<f64>,
    /// Hours times GPUs.
    pub gpu_hours: Option<f64>,
    /// Peak memory of one GPU, GiB.
    pub peak_gib: Option<f64>,
}

/// A row that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its name in the table, or its line where it has none.
    pub id: String,
    /// Where it was published.
    pub source: String,
    /// The GPU's name as the table has it.
    pub gpu_name: String,
    /// Its place among the rows, from 0.
    pub index: usize,
    /// What is wrong, with line and column.
    pub why: TableError,
}

static SHIPPED: LazyLock<Vec<Published>> = LazyLock::new(|| {
    Published::parse(include_str!("../../data/published-runs.tsv"))
        .expect("the shipped table of runs is read by a test")
});

impl Published {
    /// The runs that come with spotter.
    pub fn shipped() -> &'static [Self] {
        &SHIPPED
    }

    /// Reads a table of runs, all of it. `params_total` and `gpu` must be columns of it; the others may be missing.
    pub fn parse(text: &str) -> Result<Vec<Self>, TableError> {
        let (runs, refused) = Self::parse_rows(text)?;
        match refused.into_iter().next() {
            Some(refused) => Err(refused.why),
            None => Ok(runs),
        }
    }

    /// The same, with the rows that cannot be read set aside.
    pub fn parse_rows(text: &str) -> Result<(Vec<Self>, Vec<Refused>), TableError> {
        let table = Table::parse(text)?;
        for column in ["params_total", "gpu"] {
            table.require(column)?;
        }
        let mut ids = BTreeSet::new();
        let (mut runs, mut refused) = (Vec::new(), Vec::new());
        for (index, cells) in table.rows().enumerate() {
            let id = match cells.text("id") {
                "" => format!("line {}", cells.line()),
                id => id.to_owned(),
            };
            let run = if ids.insert(id.clone()) {
                published(&id, &cells)
            } else {
                Err(cells.error("id", &format!("the row `{id}` is there twice")))
            };
            match run {
                Ok(run) => runs.push(run),
                Err(why) => refused.push(Refused {
                    id,
                    source: cells.text("source").to_owned(),
                    gpu_name: cells.text("gpu").to_owned(),
                    index,
                    why,
                }),
            }
        }
        Ok((runs, refused))
    }

    /// Columns of a table that mean nothing to us.
    pub fn unknown_columns(text: &str) -> Result<Vec<String>, TableError> {
        let table = Table::parse(text)?;
        Ok(table
            .columns()
            .filter(|name| !COLUMNS.contains(name))
            .map(str::to_owned)
            .collect())
    }

    /// The machine, where its GPU is known.
    pub fn machine(&self) -> Option<Machine<'static>> {
        self.gpu.map(|gpu| Machine {
            gpu,
            num_gpus: self.num_gpus,
        })
    }

    /// What tells sources apart: the repository or page, without the place in it.
    pub fn source_key(&self) -> String {
        source_key(&self.source)
    }
}

impl Observed {
    /// Tokens per second and GPU: as stated, or what tokens and hours come to.
    pub fn speed(&self) -> Option<f64> {
        self.tokens_per_s_per_gpu
            .or_else(|| Some(self.tokens? / self.gpu_hours? / 3600.0))
    }
}

/// `karpathy/nanochat: dev/LOG.md` and `karpathy/nanochat: README.md` are one source.
fn source_key(source: &str) -> String {
    let name = source.split_once(": ").map_or(source, |(name, _)| name);
    name.trim().to_lowercase()
}

fn published(id: &str, cells: &Cells<'_>) -> Result<Published, TableError> {
    cells.complete()?;
    let value = |column: &str| Ok(cells.number(column)?.map(|stated: Stated| stated.value));
    let model = cells.text("model");
    let Some(params) = value("params_total")?.or_else(|| notes::params_in_name(model)) else {
        let why = "`params_total` is empty, and the model's name does not tell it";
        return Err(cells.error("params_total", why));
    };
    let gpu_name = cells.text("gpu").to_owned();
    if gpu_name.is_empty() {
        return Err(cells.error("gpu", "`gpu` is empty"));
    }
    let (method, doubtful_method) = method(cells)?;
    let (precision, doubtful_precision) = precision(cells)?;
    let peak = cells.number("peak_vram_gb_per_gpu")?;
    let (count, gpu) = counted(&gpu_name);
    let num_gpus = num_gpus(cells)?.or(count);
    let description = format!("{} {} {model}", cells.text("notes"), cells.text("source"));

    let mut job = Job {
        method,
        precision,
        trainable_params: value("params_trainable")?,
        seq_len: value("seq_len")?,
        micro_batch: value("micro_batch")?,
        batch_tokens: value("global_batch_tokens")?,
        stack: Stack::in_text(&description),
        ..Job::new(params)
    };
    if job
        .trainable_params
        .is_some_and(|trainable| trainable > params * 1.5)
    {
        let why = "more parameters are trained than there are";
        return Err(cells.error("params_trainable", why));
    }
    notes::apply(
        &mut job,
        model,
        cells.text("notes"),
        cells.text("optimizer"),
    );

    let (_, doubtful_gpu) = unmarked(&gpu_name);
    let gpus = num_gpus.map(f64::from);
    let wall_hours = value("wall_hours")?;
    let gpu_hours = value("gpu_hours")?.or_else(|| Some(wall_hours? * gpus?));
    let total = value("tokens_per_s_total")?;
    // `?` is marked on what was not certain; the mean of what is stated twice would hide it.
    let per_gpu = value("tokens_per_s_per_gpu")?.or_else(|| Some(total? / gpus?));
    Ok(Published {
        id: id.to_owned(),
        model: model.to_owned(),
        source: cells.text("source").to_owned(),
        gpu: Gpus::shipped().find(gpu, None),
        gpu_name,
        job: job.with_conventions(),
        num_gpus,
        observed: Observed {
            tokens_per_s_per_gpu: per_gpu,
            tokens: value("tokens_trained")?,
            wall_hours: wall_hours.or_else(|| Some(gpu_hours? / gpus?)),
            gpu_hours,
            peak_gib: peak.map(|stated| stated.value),
        },
        doubtful_memory: doubtful_method
            || doubtful_precision
            || doubtful_gpu
            || peak.is_some_and(|stated| stated.doubtful),
    })
}

/// `8x H100 80GB` and `8 x H100` are eight.
fn counted(gpu: &str) -> (Option<u32>, &str) {
    let rest = gpu.trim_start_matches(|c: char| c.is_ascii_digit());
    let name = rest
        .trim_start()
        .strip_prefix(['x', 'X', '\u{d7}', '*'])
        .map(str::trim_start);
    match (gpu[..gpu.len() - rest.len()].parse(), name) {
        (Ok(count), Some(name)) if (1..=1_000_000).contains(&count) => (Some(count), name),
        _ => (None, gpu),
    }
}

fn method(cells: &Cells<'_>) -> Result<(Method, bool), TableError> {
    let (text, doubtful) = unmarked(cells.text("method"));
    let words = text.to_lowercase();
    let has = |known: &[&str]| known.iter().any(|known| words.contains(known));
    // `LoRA (r=16)`, `4-bit LoRA` and `full fine-tuning` are what they say.
    let adapters = has(&["lora", "dora", "adapter", "peft"]);
    let method = if adapters && has(&["qlora", "qdora", "4-bit", "4bit", "nf4", "int4", "quant"]) {
        Method::Qlora
    } else if adapters {
        Method::Lora
    } else if words.is_empty()
        || has(&[
            "full",
            "pretrain",
            "pre-train",
            "sft",
            "scratch",
            "finetun",
            "fine-tun",
        ])
    {
        Method::Full
    } else {
        let why = format!("`method` is full, lora or qlora, not `{text}`");
        return Err(cells.error("method", &why));
    };
    Ok((method, doubtful))
}

fn precision(cells: &Cells<'_>) -> Result<(Precision, bool), TableError> {
    let (text, doubtful) = unmarked(cells.text("precision"));
    let words = text.to_lowercase();
    let has = |known: &[&str]| known.iter().any(|known| words.contains(known));
    // Of several, such as `bf16 + fp8`, that of the products counts; quantized weights are multiplied in 16 bits.
    let precision = if has(&["fp8", "float8", "mxfp8", "e4m3", "fp4", "mxfp4", "nvfp4"]) {
        Precision::Fp8
    } else if words.is_empty() || has(&["bf16", "bfloat16"]) {
        Precision::Bf16
    } else if has(&["fp16", "float16", "f16", "half", "amp", "16-mixed"]) {
        Precision::Fp16
    } else if has(&[
        "nf4", "int4", "4bit", "4-bit", "int8", "8bit", "8-bit", "mixed",
    ]) {
        Precision::Bf16
    } else if has(&["tf32"]) {
        Precision::Tf32
    } else if has(&["fp32", "float32", "f32"]) {
        Precision::Fp32
    } else {
        let why = format!("`precision` is bf16, fp16, fp32, tf32 or fp8, not `{text}`");
        return Err(cells.error("precision", &why));
    };
    Ok((precision, doubtful))
}

fn num_gpus(cells: &Cells<'_>) -> Result<Option<u32>, TableError> {
    let Some(stated) = cells.number("num_gpus")? else {
        return Ok(None);
    };
    if stated.value.fract() == 0.0 && stated.value <= 1e6 {
        Ok(Some(stated.value as u32))
    } else {
        Err(cells.error("num_gpus", "`num_gpus` is a whole number up to 1000000"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(text: &str, expected: &str) {
        assert_eq!(Published::parse(text).unwrap_err().to_string(), expected);
    }

    #[test]
    fn every_shipped_run_has_a_gpu_that_is_known() {
        let runs = Published::shipped();
        assert!(runs.len() > 150, "{}", runs.len());
        for run in runs {
            assert!(run.gpu.is_some(), "{}: {}", run.id, run.gpu_name);
        }
    }

    #[test]
    fn columns_may_be_missing_or_stand_in_another_order() {
        let runs = Published::parse("gpu\tparams_total\tid\nRTX 4090\t1e9\ta\n").unwrap();
        assert_eq!(runs[0].job.method, Method::Full);
        assert_eq!(runs[0].observed, Observed::default());
        assert_eq!(runs[0].num_gpus, None);
    }

    #[test]
    fn hours_and_speeds_complete_each_other() {
        let heading =
            "id\tparams_total\tgpu\tnum_gpus\ttokens_trained\twall_hours\ttokens_per_s_total\n";
        let runs = Published::parse(&format!(
            "{heading}a\t1e9\tH100\t8\t3.6e9\t10\t\nb\t1e9\tH100\t8\t\t\t800\n"
        ))
        .unwrap();
        assert_eq!(runs[0].observed.gpu_hours, Some(80.0));
        assert_eq!(runs[0].observed.speed(), Some(12_500.0));
        assert_eq!(runs[1].observed.speed(), Some(100.0));
    }

    #[test]
    fn bad_rows_are_refused_with_line_and_column() {
        let heading = "id\tparams_total\tgpu\tmethod\tprecision\tnum_gpus\n";
        let row = |row: &str| format!("{heading}ok\t1e9\tH100\n{row}\n");
        check_refused(
            "id\tgpu\na\tH100\n",
            "1:1: there is no column `params_total`",
        );
        check_refused(&row("ok\t1e9\tH100"), "3:1: the row `ok` is there twice");
        check_refused(
            &row("a\t\tH100"),
            "3:3: `params_total` is empty, and the model's name does not tell it",
        );
        check_refused(&row("a\t1e9\t"), "3:7: `gpu` is empty");
        check_refused(
            &row("a\tmany\tH100"),
            "3:3: `params_total` is a number above 0, such as 8030000000, ~1.5e9 or 80?, not `many`",
        );
        check_refused(
            &row("a\t1e9\tH100\tmagic"),
            "3:12: `method` is full, lora or qlora, not `magic`",
        );
        check_refused(
            &row("a\t1e9\tH100\tfull\tint3"),
            "3:17: `precision` is bf16, fp16, fp32, tf32 or fp8, not `int3`",
        );
        check_refused(
            &row("a\t1e9\tH100\tfull\tbf16\t1.5"),
            "3:22: `num_gpus` is a whole number up to 1000000",
        );
    }

    #[test]
    fn a_row_that_cannot_be_read_does_not_keep_the_others_from_being_read() {
        let text = "model\tparams_total\tgpu\tnum_gpus\n\
                    Llama 2 7B\t\t8x H100\t-\nx\t\tH100\t1\nx\t1.5B\tH100\t1\t2\nx\t1.5B\tA100-40G\t1\n";
        let (runs, refused) = Published::parse_rows(text).unwrap();
        let read: Vec<_> = runs.iter().map(|run| (&*run.id, run.job.params)).collect();
        assert_eq!(read, [("line 2", 7e9), ("line 5", 1.5e9)]);
        assert_eq!(runs[0].num_gpus, Some(8));
        let why: Vec<_> = refused.iter().map(|row| row.why.to_string()).collect();
        assert_eq!(
            why,
            [
                "3:3: `params_total` is empty, and the model's name does not tell it",
                "4:15: 5 cells, but the heading names 4 columns"
            ]
        );
        assert_eq!((&*refused[1].id, refused[1].index), ("line 4", 2));
        assert_eq!(Published::parse(text).unwrap_err(), refused[0].why);
    }

    #[test]
    fn methods_and_precisions_are_read_as_people_write_them() {
        let read = |method: &str, precision: &str| {
            let text =
                format!("params_total\tgpu\tmethod\tprecision\n1e9\tH100\t{method}\t{precision}\n");
            let run = &Published::parse(&text).unwrap()[0];
            (run.job.method, run.job.precision)
        };
        for (method, precision, expected) in [
            (
                "Full fine-tuning",
                "BF16 mixed",
                (Method::Full, Precision::Bf16),
            ),
            (
                "continued pretraining",
                "bf16 + FP8",
                (Method::Full, Precision::Fp8),
            ),
            ("LoRA (r=16)", "fp16 AMP", (Method::Lora, Precision::Fp16)),
            ("4-bit LoRA", "NF4", (Method::Qlora, Precision::Bf16)),
            ("QLoRA?", "TF32", (Method::Qlora, Precision::Tf32)),
            ("SFT", "float32", (Method::Full, Precision::Fp32)),
        ] {
            assert_eq!(read(method, precision), expected, "{method}, {precision}");
        }
    }

    #[test]
    fn pages_of_one_repository_are_one_source() {
        assert_eq!(
            source_key("karpathy/nanochat: dev/LOG.md"),
            "karpathy/nanochat"
        );
        assert_eq!(
            source_key("A page, see https://example.org"),
            "a page, see https://example.org"
        );
    }
}
