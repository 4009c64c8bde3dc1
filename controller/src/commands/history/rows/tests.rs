//! Tables and JSON lines, there and back, and what is refused.

use super::*;

fn model() -> Model {
    let head = "name: a\nresources: {accelerators: RTX 4090}\nrun: x\n";
    let text = format!(
        "{head}model: {{params: 124M, seq_len: 1024, micro_batch: 16, batch_tokens: 512k, stack: nanogpt}}\n"
    );
    crate::spec::parse(&text, "run.yaml", std::path::Path::new("/"))
        .unwrap()
        .model
        .unwrap()
}

fn record() -> ObservationRecord {
    let mut seen = Observation::new(Source::Trained, "gpt2", "RTX 4090", 1_800_000_000_000_000);
    seen.attempt = Some(2);
    seen.code = Some("00ff".into());
    seen.model = Some(model());
    seen.num_gpus = Some(3);
    seen.machine_id = Some(41);
    seen.tokens_per_s = Some(142_000.5);
    seen.predicted_tokens_per_s = Some(150_000.0);
    seen.steps_per_s = Some(0.27);
    seen.gpu_utilisation_percent = Some(91.0);
    seen.peak_vram_gib = Some(20.25);
    seen.peak_ram_gb = Some(31.0);
    seen.setup_s = Some(600.0);
    seen.debug_s = Some(0.0);
    seen.trained_s = Some(7200.0);
    seen.down_mbps = Some(700.0);
    seen.advertised_down_mbps = Some(800.0);
    seen.up_mbps = Some(100.0);
    seen.advertised_up_mbps = Some(500.0);
    seen.note = Some("with flash attention".into());
    ObservationRecord {
        id: 7,
        edited: true,
        seen,
    }
}

#[test]
fn what_is_exported_is_imported_as_it_was() {
    let record = record();
    let mut expected = record.seen.clone();
    expected.source = Source::Imported;
    let all = [record];
    assert_eq!(parse(&json_lines(&all)).unwrap(), [expected.clone()]);
    let (text, written) = table(&all);
    assert_eq!(written, 1);
    let mut found = parse(&text).unwrap();
    // A table holds what its columns hold.
    let (seen, model) = (found.pop().unwrap(), expected.model.take().unwrap());
    let got = seen.model.clone().unwrap();
    assert_eq!(got.params, model.params);
    assert_eq!(
        (got.seq_len, got.micro_batch),
        (model.seq_len, model.micro_batch)
    );
    assert_eq!((got.optimizer, got.stack), (model.optimizer, model.stack));
    assert_eq!(
        Observation {
            model: None,
            ..seen
        },
        expected
    );
}

#[test]
fn every_optimizer_comes_back_from_a_table() {
    for wanted in [
        Optimizer::Adam,
        Optimizer::Adam8bit,
        Optimizer::PagedAdam8bit,
        Optimizer::Muon,
        Optimizer::Momentum,
        Optimizer::Stateless,
    ] {
        let mut record = record();
        record.seen.model.as_mut().unwrap().optimizer = wanted;
        let found = parse(&table(&[record]).0).unwrap();
        assert_eq!(found[0].model.as_ref().unwrap().optimizer, wanted);
    }
}

#[test]
fn the_table_of_published_runs_is_taken() {
    let found = parse(include_str!("../../../../data/published-runs.tsv")).unwrap();
    assert!(found.len() > 150);
    let speeds = found
        .iter()
        .filter(|seen| seen.tokens_per_s.is_some())
        .count();
    assert!(speeds > 80, "{speeds}");
    assert!(
        found
            .iter()
            .all(|seen| seen.model.is_some() && seen.observed_us == 0)
    );
}

#[test]
fn what_does_not_say_what_was_trained_is_in_json_lines_alone() {
    let mut bare = record();
    bare.seen.model = None;
    assert_eq!(table(std::slice::from_ref(&bare)).1, 0);
    assert_eq!(parse(&json_lines(&[bare])).unwrap()[0].model, None);
}

#[track_caller]
fn check_refused(text: &str, expected: &str) {
    assert_eq!(parse(text).unwrap_err(), expected);
}

#[test]
fn bad_rows_are_refused_with_line_and_column_or_field() {
    let heading = "id\tparams_total\tgpu\tsetup_s\tattempt\tgpu_utilisation_percent\n";
    let row = |row: &str| format!("{heading}ok\t1e9\tH100\n{row}\n");
    check_refused(
        "id\tgpu\na\tH100\n",
        "1:1: there is no column `params_total`",
    );
    check_refused(
        &row("a\t1e9\tH100\tsoon"),
        "3:12: `setup_s` is a number, 0 or above, not `soon`",
    );
    check_refused(
        &row("a\t1e9\tH100\t1\t1.5"),
        "3:14: `attempt` is a whole number",
    );
    check_refused(
        &row("a\t1e9\tH100\t1\t1\t101"),
        "3:16: `gpu_utilisation_percent` is from 0 to 100",
    );
    let good = r#"{"run": "a", "gpu": "H100"}"#;
    let line = |line: &str| format!("{good}\n\n{line}\n");
    for (bad, expected) in [
        (r#"{"run": "a""#, "3: character 11: this is no JSON object"),
        ("[1]", "3: this is no JSON object"),
        (r#"{"run": "a"}"#, "3: `gpu` is missing"),
        (r#"{"run": 1, "gpu": "H100"}"#, "3: `run` is text, not `1`"),
        (r#"{"run": "", "gpu": "H100"}"#, "3: `run` is empty"),
        (
            r#"{"run": "a", "gpu": "H100", "tokens_s": 1}"#,
            "3: there is no field `tokens_s`; do you mean `tokens_per_s`?",
        ),
        (
            r#"{"run": "a", "gpu": "H100", "tokens_per_s": "many"}"#,
            "3: `tokens_per_s` is a number, 0 or above, not `\"many\"`",
        ),
        (
            r#"{"run": "a", "gpu": "H100", "num_gpus": 0}"#,
            "3: `num_gpus` is 1 or more",
        ),
        (
            r#"{"run": "a\u001b[2J", "gpu": "H100"}"#,
            "3: `run` has control characters, or is longer than 1000 bytes",
        ),
    ] {
        check_refused(&line(bad), expected);
    }
}
