//! The key `model` as it is written.

use serde::Deserialize;

use super::{Scalar, at, choice, option, or};
use crate::{
    estimate::{
        job::{Method, Optimizer, Precision, Recompute, Sharding},
        stacks::Stack,
    },
    spec::{
        YamlError,
        model::{Attention, Model},
        nearest, values,
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub(crate) struct ModelKeys {
    name: Option<Scalar>,
    params: Scalar,
    active_params: Option<Scalar>,
    trainable_params: Option<Scalar>,
    method: Option<Scalar>,
    precision: Option<Scalar>,
    tokens: Option<Scalar>,
    steps: Option<Scalar>,
    seq_len: Option<Scalar>,
    micro_batch: Option<Scalar>,
    batch_tokens: Option<Scalar>,
    layers: Option<Scalar>,
    hidden: Option<Scalar>,
    vocab: Option<Scalar>,
    optimizer: Option<Scalar>,
    offload: Option<Scalar>,
    recompute: Option<Scalar>,
    compile: Option<Scalar>,
    sharding: Option<Scalar>,
    attention: Option<Scalar>,
    stack: Option<Scalar>,
    download: Option<Scalar>,
    setup: Option<Scalar>,
}

/// Reads and checks the key.
pub(super) fn model(keys: &ModelKeys) -> Result<Model, YamlError> {
    let params = at(&keys.params, values::amount(&keys.params.value))?;
    let part = |scalar: &Option<Scalar>| {
        option(scalar.as_ref(), |text| match values::amount(text)? {
            amount if amount <= params => Ok(amount),
            _ => Err("there are fewer parameters in all".to_owned()),
        })
    };
    let batch_tokens = option(keys.batch_tokens.as_ref(), values::amount)?;
    Ok(Model {
        name: keys.name.as_ref().map(|name| name.value.clone()),
        params,
        active_params: part(&keys.active_params)?,
        trainable_params: part(&keys.trainable_params)?,
        method: or(keys.method.as_ref(), Method::Full, |text| {
            let words = [
                ("full", Method::Full),
                ("lora", Method::Lora),
                ("qlora", Method::Qlora),
            ];
            choice(text, &words)
        })?,
        precision: or(keys.precision.as_ref(), Precision::Bf16, |text| {
            let words = [
                ("bf16", Precision::Bf16),
                ("fp16", Precision::Fp16),
                ("fp32", Precision::Fp32),
                ("tf32", Precision::Tf32),
                ("fp8", Precision::Fp8),
            ];
            choice(text, &words)
        })?,
        tokens: tokens(keys, batch_tokens)?,
        seq_len: count(keys.seq_len.as_ref(), 100_000_000)?,
        micro_batch: count(keys.micro_batch.as_ref(), 1_000_000)?,
        batch_tokens,
        layers: count(keys.layers.as_ref(), 10_000)?,
        hidden: count(keys.hidden.as_ref(), 1_000_000)?,
        vocab: count(keys.vocab.as_ref(), 100_000_000)?,
        optimizer: or(keys.optimizer.as_ref(), Optimizer::Adam, |text| {
            let words = [
                ("adamw", Optimizer::Adam),
                ("adamw-8bit", Optimizer::Adam8bit),
                ("paged-adamw-8bit", Optimizer::PagedAdam8bit),
                ("muon", Optimizer::Muon),
                ("lion", Optimizer::Momentum),
                ("momentum", Optimizer::Momentum),
                ("sgd", Optimizer::Stateless),
                ("adafactor", Optimizer::Stateless),
            ];
            choice(text, &words)
        })?,
        offload: or(keys.offload.as_ref(), false, yes_or_no)?,
        recompute: option(keys.recompute.as_ref(), |text| {
            let words = [
                ("none", Recompute::Nothing),
                ("selective", Recompute::Selective),
                ("full", Recompute::Full),
            ];
            choice(text, &words)
        })?,
        compile: option(keys.compile.as_ref(), yes_or_no)?,
        sharding: option(keys.sharding.as_ref(), |text| {
            let words = [
                ("ddp", Sharding::Nothing),
                ("zero1", Sharding::Optimizer),
                ("fsdp", Sharding::Everything),
            ];
            choice(text, &words)
        })?,
        attention: or(keys.attention.as_ref(), Attention::Sdpa, |text| {
            let words = [
                ("sdpa", Attention::Sdpa),
                ("flash2", Attention::Flash2),
                ("flash3", Attention::Flash3),
                ("stored", Attention::Stored),
            ];
            choice(text, &words)
        })?,
        stack: option(keys.stack.as_ref(), stack)?,
        download_gb: or(keys.download.as_ref(), 0.0, values::size_gb)?,
        setup_hours: option(keys.setup.as_ref(), |text| {
            Ok(values::duration(text)?.as_secs_f64() / 3600.0)
        })?,
    })
}

/// Tokens as they are written, or steps of so many.
fn tokens(keys: &ModelKeys, batch_tokens: Option<f64>) -> Result<Option<f64>, YamlError> {
    let steps = option(keys.steps.as_ref(), values::amount)?;
    match (&keys.tokens, &keys.steps, steps, batch_tokens) {
        (Some(tokens), Some(_), ..) => at(
            tokens,
            Err("either `tokens` or `steps` says how long it trains".to_owned()),
        ),
        (Some(tokens), ..) => at(tokens, values::amount(&tokens.value)).map(Some),
        (None, Some(scalar), Some(_), None) => at(
            scalar,
            Err("`steps` need `batch_tokens`, the tokens of a step".to_owned()),
        ),
        (None, _, Some(steps), Some(batch)) => Ok(Some(steps * batch)),
        (None, ..) => Ok(None),
    }
}

fn count(scalar: Option<&Scalar>, most: u32) -> Result<Option<u32>, YamlError> {
    option(scalar, |text| values::count(text, 1..=most))
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    choice(text, &[("true", true), ("false", false)])
}

fn stack(text: &str) -> Result<String, String> {
    if Stack::named(text).is_some() {
        return Ok(text.to_owned());
    }
    let known: Vec<&'static str> = Stack::names().collect();
    Err(match nearest(text, known.iter().copied()) {
        Some(near) => format!("no such program is known, did you mean `{near}`?"),
        None => format!("the programs that are known are {}", known.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::spec::parse;

    const START: &str = "name: a\nresources: {accelerators: RTX 4090}\nrun: train\n";

    fn read(model: &str) -> Result<Model, String> {
        parse(
            &format!("{START}model: {model}\n"),
            "run.yaml",
            Path::new("/nowhere"),
        )
        .map(|spec| spec.model.unwrap())
        .map_err(|err| err.to_string())
    }

    #[track_caller]
    fn check_error(model: &str, expected: &str) {
        assert_eq!(read(model).unwrap_err(), format!("run.yaml:4:{expected}"));
    }

    #[test]
    fn the_size_alone_is_enough() {
        let model = read("{params: 956M}").unwrap();
        assert_eq!(model.params, 956e6);
        assert_eq!(
            (model.method, model.precision, model.tokens),
            (Method::Full, Precision::Bf16, None)
        );
        assert_eq!(model.job().compute_params(), 956e6);
    }

    #[test]
    fn what_is_written_reaches_the_estimator() {
        let model = read(
            "{name: Llama 3.1 8B, params: 8.03B, method: lora, trainable_params: 40M, steps: 1000, batch_tokens: 64k, \
             seq_len: 4096, micro_batch: 2, attention: flash2, stack: torchtune, download: 40GB, setup: 45m}",
        )
        .unwrap();
        assert_eq!(model.tokens, Some(64e6));
        assert_eq!((model.download_gb, model.setup_hours), (40.0, Some(0.75)));
        let job = model.job();
        assert_eq!((job.vocab, job.trainable_params()), (128_256.0, 40e6));
        // A convention of the program.
        assert_eq!(job.recompute, Some(Recompute::Full));
    }

    #[test]
    fn bad_values_are_refused_at_their_place() {
        check_error(
            "{params: big}",
            "17: a number looks like 8.03B, 956M, 512k or 524288",
        );
        check_error(
            "{params: 1B, trainable_params: 2B}",
            "39: there are fewer parameters in all",
        );
        check_error(
            "{params: 1B, method: dora}",
            "29: expected full or lora or qlora",
        );
        check_error(
            "{params: 1B, steps: 10}",
            "28: `steps` need `batch_tokens`, the tokens of a step",
        );
        check_error(
            "{params: 1B, tokens: 1B, steps: 10}",
            "29: either `tokens` or `steps` says how long it trains",
        );
        check_error(
            "{params: 1B, stack: torchtun}",
            "28: no such program is known, did you mean `torchtune`?",
        );
        check_error("{tokens: 1B}", "9: the key `params` is missing");
    }
}
