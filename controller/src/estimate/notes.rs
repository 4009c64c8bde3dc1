//! What the free text of a published run says about how it was made (pure).
//!
//! Tables of runs have no column for recomputation, sharding or lengths of samples; people write those into notes. Each phrase that
//! is understood here is one that such tables use; what is not understood changes nothing.

use super::job::{Job, Layout, Optimizer, Recompute, Shape, Sharding};

/// Vocabularies of model families; the first name that occurs in the model's is taken.
const VOCABULARIES: [(&str, f64); 20] = [
    ("llama 3", 128_256.0),
    ("llama-3", 128_256.0),
    ("llama3", 128_256.0),
    ("llama 4", 202_048.0),
    ("qwen", 151_936.0),
    ("gemma", 256_000.0),
    ("deepseek", 129_280.0),
    ("bloom", 250_880.0),
    ("gpt-oss", 201_088.0),
    ("nemotron", 256_000.0),
    ("nanochat", 32_768.0),
    ("falcon", 65_024.0),
    ("phi", 51_200.0),
    ("smollm", 49_152.0),
    ("starcoder", 49_152.0),
    ("t5", 32_128.0),
    ("mt0", 250_112.0),
    ("mixtral", 32_000.0),
    ("mistral", 32_000.0),
    ("llama", 32_000.0),
];

/// Parameters that a token meets, by models whose names do not say so. From their papers and model cards.
const ACTIVE: [(&str, f64); 16] = [
    ("deepseek-v3", 37e9),
    ("deepseek v3", 37e9),
    ("deepseek-r1", 37e9),
    ("deepseek-v2-lite", 2.4e9),
    ("deepseek-v2", 21e9),
    ("deepseek v2", 21e9),
    ("deepseekmoe 16b", 2.8e9),
    ("dbrx", 36e9),
    ("gpt-oss-20b", 3.6e9),
    ("gpt-oss-120b", 5.1e9),
    ("llama 4", 17e9),
    ("llama-4", 17e9),
    ("kimi-k2", 32e9),
    ("glm-4.5-air", 12e9),
    ("olmoe", 1.3e9),
    ("jetmoe", 2.2e9),
];
/// Share of the parameters that a token meets where a mixture of experts is named and nothing more: those above lie between a
/// twentieth and a quarter.
const ACTIVE_SHARE: f64 = 0.15;

/// Changes a job by what its notes, its model's name and its optimizer's name say.
pub fn apply(job: &mut Job, model: &str, notes: &str, optimizer: &str) {
    let model = model.to_lowercase();
    let notes = notes.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| notes.contains(word));

    if let Some(active) = active_in_notes(&notes).or_else(|| active_in_name(&model, job.params)) {
        job.active_params = active;
        job.experts = active < job.params;
    } else if has(&["mixture of experts"]) || has_word(&notes, "moe") || has_word(&model, "moe") {
        job.active_params = ACTIVE_SHARE * job.params;
        job.experts = true;
    }
    // Embeddings are looked up, not multiplied; who states the difference usually has a large one.
    let multiplied = number_after(&notes, "matmul params ")
        .or_else(|| number_after(&notes, "matmul params about "));
    if let Some(multiplied) = multiplied {
        job.active_params = multiplied;
    }
    job.mean_tokens = number_after(&notes, "average ").filter(|_| has(&["tokens per sample"]));
    job.longest_tokens = number_after(&notes, "longest sample ");

    job.recompute = if has(&[
        "checkpointing=false",
        "no gradient checkpointing",
        "no activation checkpointing",
        "without gradient checkpointing",
        "without activation checkpointing",
        "no recompute",
    ]) {
        Some(Recompute::Nothing)
    } else if has(&[
        "selective ac",
        "selective activation",
        "selective recompute",
        "selective checkpointing",
    ]) {
        Some(Recompute::Selective)
    } else if has(&["checkpointing", "full ac", "recompute"]) {
        Some(Recompute::Full)
    } else {
        None
    };
    // Activations that go to the host are another matter than optimizer states that live there.
    let only_activations = has(&["activation offload", "offloaded activations"]);
    job.offload = has(&["cpu offload"]) || (has(&["offload"]) && !only_activations);
    job.compile = if has(&["no compile", "without compile"]) {
        Some(false)
    } else if has(&["compile"]) {
        Some(true)
    } else {
        None
    };
    job.flash_attention = !has(&["no flash", "without flash"]);
    job.fused_backward = has(&[
        "optimizer-in-backward",
        "fused optimizer step",
        "optimizer in backward",
    ]);
    job.chunked_loss = has(&["chunked", "memory flags", "all flags", "liger"]);
    job.pure_16_bit = has(&["bf16-true", "bf16 weights", "pure bf16", "16-true"]).then_some(true);
    job.layout = Layout {
        sharding: if has(&["full_shard", "fsdp", "zero-3", "zero3", "zero 3"]) {
            Some(Sharding::Everything)
        } else if has(&[
            "zero-1",
            "zero1",
            "zero 1",
            "zero-2",
            "zero2",
            "distributed optimizer",
        ]) {
            Some(Sharding::Optimizer)
        } else if has(&["ddp"]) {
            Some(Sharding::Nothing)
        } else {
            None
        },
        tensor: degree(&notes, "tp"),
        pipeline: degree(&notes, "pp"),
        context: degree(&notes, "cp"),
    };
    job.optimizer = optimizer_of(optimizer);
    job.vocab = vocabulary(&model).unwrap_or(job.vocab);
    job.shape = None::<Shape>;
}

fn optimizer_of(text: &str) -> Optimizer {
    let text = text.to_lowercase();
    let eight_bit = text.contains("8bit") || text.contains("8-bit");
    match text.as_str() {
        text if eight_bit && text.contains("paged") => Optimizer::PagedAdam8bit,
        _ if eight_bit => Optimizer::Adam8bit,
        text if text.contains("muon") => Optimizer::Muon,
        text if text.contains("lion") || text.contains("momentum") => Optimizer::Momentum,
        text if text.contains("adafactor") || text.contains("sgd") => Optimizer::Stateless,
        _ => Optimizer::Adam,
    }
}

/// Size of the vocabulary, from `250k vocab` or from the family's name.
pub fn vocabulary(model: &str) -> Option<f64> {
    if let Some(end) = model.find("k vocab") {
        let digits: String = model[..end]
            .chars()
            .rev()
            .take_while(char::is_ascii_digit)
            .collect();
        let digits: String = digits.chars().rev().collect();
        if let Ok(thousands) = digits.parse::<f64>() {
            return Some(thousands * 1000.0);
        }
    }
    VOCABULARIES
        .iter()
        .find(|(family, _)| model.contains(family))
        .map(|(_, size)| *size)
}

/// `active params 37B`, `3.3B active parameters`, `activated: 21B`.
fn active_in_notes(notes: &str) -> Option<f64> {
    const AFTER: [&str; 8] = [
        "active params ",
        "active parameters ",
        "active params: ",
        "active parameters: ",
        "active: ",
        "activated: ",
        "activated params ",
        "activated parameters ",
    ];
    const BEFORE: [&str; 3] = [" active", " activated", "-active"];
    let stated = |number: &f64| *number >= 1e6;
    AFTER
        .iter()
        .find_map(|words| number_after(notes, words).filter(stated))
        .or_else(|| {
            BEFORE.iter().find_map(|words| {
                let (before, _) = notes.split_once(words)?;
                let word = before.rsplit([' ', '(', ',', ';', '/']).next()?;
                number_after(word, "").filter(stated)
            })
        })
}

/// `Qwen3-30B-A3B` has 3 B active parameters, and of `8x7B` a token meets two experts.
fn active_in_name(model: &str, params: f64) -> Option<f64> {
    let after = |(_, rest): (&str, &str)| {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest[end..].starts_with('b').then_some(number * 1e9)
    };
    if let Some(active) = model.split_once("-a").and_then(after) {
        return Some(active);
    }
    if let Some((experts, one)) = experts_in_name(model) {
        // All is what they share and every expert; one is what they share and one expert.
        let expert = (params - one) / (experts - 1.0);
        return Some(one + expert).filter(|active| expert > 0.0 && *active < params);
    }
    let known = ACTIVE.iter().find(|(name, _)| model.contains(name));
    known
        .map(|(_, active)| *active)
        .filter(|active| *active < params)
}

/// `Mixtral 8x7B` has 8 experts, and 7 B parameters with one of them.
fn experts_in_name(model: &str) -> Option<(f64, f64)> {
    let mut words = model.split([' ', '-', '_', '(', '/']);
    words.find_map(|word| {
        let (experts, one) = word.split_once('x')?;
        let experts: u32 = experts.parse().ok()?;
        let one = params_in_word(one)?;
        (2..=1024)
            .contains(&experts)
            .then_some((f64::from(experts), one))
    })
}

/// Parameters that a model's name tells: `Llama 2 7B`, `GPT-2 124M`, `Mixtral 8x7B`.
pub fn params_in_name(model: &str) -> Option<f64> {
    let model = model.to_lowercase();
    if let Some((experts, one)) = experts_in_name(&model) {
        // Experts are about four fifths of a dense model.
        return Some(one + (experts - 1.0) * 0.8 * one);
    }
    model
        .split([' ', '-', '_', '(', ')', '/', ','])
        .find_map(params_in_word)
}

/// `7b`, `1.1b`, `124m`.
fn params_in_word(word: &str) -> Option<f64> {
    let digits = word.strip_suffix(['b', 'm'])?;
    let number: f64 = digits
        .starts_with(|c: char| c.is_ascii_digit())
        .then(|| digits.parse().ok())??;
    let scale = if word.ends_with('b') { 1e9 } else { 1e6 };
    (number > 0.0 && number < 1e4).then_some(number * scale)
}

/// Whether a word stands by itself.
fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric())
        .any(|found| found == word)
}

/// The number after some words: `37B`, `110M`, `210`.
fn number_after(text: &str, words: &str) -> Option<f64> {
    let (_, rest) = text.split_once(words)?;
    let end = rest
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(rest.len());
    let number: f64 = rest[..end].trim_end_matches('.').parse().ok()?;
    let scale = match rest[end..].trim_start().chars().next() {
        Some('b') => 1e9,
        Some('m') => 1e6,
        Some('k') => 1e3,
        _ => 1.0,
    };
    (number > 0.0).then_some(number * scale)
}

/// The degree in `TP8`, `TP 8` or `TP=8`; 1 without.
fn degree(text: &str, kind: &str) -> u32 {
    let mut from = 0;
    while let Some(found) = text[from..].find(kind) {
        let start = from + found;
        let rest = text[start + kind.len()..].trim_start_matches([' ', '=']);
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let apart = text[..start]
            .chars()
            .next_back()
            .is_none_or(|c| !c.is_alphanumeric());
        match digits.parse() {
            Ok(degree) if apart && (1..=4096).contains(&degree) => return degree,
            _ => from = start + kind.len(),
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(model: &str, notes: &str) -> Job {
        let mut job = Job::new(30e9);
        apply(&mut job, model, notes, "");
        job
    }

    #[test]
    fn phrases_of_notes_are_understood() {
        let job = read("Llama 3 70B", "FSDP 32 TP 8, full AC, float8; CP4");
        assert_eq!(job.layout.sharding, Some(Sharding::Everything));
        assert_eq!(
            (job.layout.tensor, job.layout.pipeline, job.layout.context),
            (8, 1, 4)
        );
        assert_eq!(job.recompute, Some(Recompute::Full));
        assert_eq!(job.vocab, 128_256.0);
        assert_eq!(
            read("", "activation checkpointing=False").recompute,
            Some(Recompute::Nothing)
        );
        assert_eq!(
            read("", "selective AC").recompute,
            Some(Recompute::Selective)
        );
        assert_eq!(read("", "nothing said").recompute, None);
        assert_eq!(read("", "no compile, no tensor cores").compile, Some(false));
        assert_eq!(read("", "FSDP + compile").compile, Some(true));
        assert!(read("", "ZeRO-3 + CPU Adam offload").offload);
        assert!(!read("", "all flags incl. activation offload").offload);
        assert!(!read("", "no flash attention, seq 512").flash_attention);
    }

    #[test]
    fn a_name_tells_how_large_a_model_is() {
        for (name, params) in [
            ("Llama 2 7B", Some(7e9)),
            ("GPT-2 124M (Muon)", Some(124e6)),
            ("TinyLlama-1.1B-Chat", Some(1.1e9)),
            ("Mixtral 8x7B", Some(46.2e9)),
            ("nanochat d20", None),
            ("", None),
        ] {
            let found = params_in_name(name);
            let near = match (found, params) {
                (Some(found), Some(params)) => (found / params - 1.0).abs() < 1e-9,
                (found, params) => found == params,
            };
            assert!(near, "{name}: {found:?}");
        }
    }

    #[test]
    fn what_a_token_meets_is_read_from_name_or_notes() {
        assert_eq!(read("Qwen3-30B-A3B (MoE)", "").active_params, 3e9);
        assert_eq!(read("x", "active params 3.3B; EP8").active_params, 3.3e9);
        assert_eq!(
            read("x", "matmul params 110M (151M are value embeddings)").active_params,
            110e6
        );
        assert_eq!(
            read("x", "1.3B active parameters; FSDP").active_params,
            1.3e9
        );
        assert_eq!(read("x", "MoE (2.2B active)").active_params, 2.2e9);
        assert_eq!(read("x", "a MoE of unknown make").active_params, 4.5e9);
        assert_eq!(read("OLMoE-1B-7B", "").active_params, 1.3e9);
        assert_eq!(read("x", "10 active users").active_params, 30e9);
        let mut mixtral = Job::new(46.7e9);
        apply(&mut mixtral, "Mixtral-8x7B", "", "");
        assert!(
            (12e9..13.5e9).contains(&mixtral.active_params),
            "{mixtral:?}"
        );
        assert!(!read("x", "").experts);
        assert!(!read("Llama 2 13B", "").experts);
        assert_eq!(read("GPT 600M (250k vocab)", "").vocab, 250_000.0);
        assert_eq!(
            read("x", "average 210 tokens per sample").mean_tokens,
            Some(210.0)
        );
    }
}
