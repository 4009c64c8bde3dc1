//! Units of speed, as trainers write them.

use serde::{Serialize, Serializer};

/// What a speed counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Tokens per second.
    Tokens,
    /// Tokens per second of each GPU.
    TokensPerGpu,
    /// Tokens per second of each device.
    TokensPerDevice,
    /// Words per second.
    Words,
    /// Samples per second.
    Samples,
    /// Images per second.
    Images,
    /// Iterations of a progress bar per second.
    Iterations,
    /// Steps per second.
    Steps,
    /// Batches per second.
    Batches,
    /// Epochs per second.
    Epochs,
    /// Frames of an environment per second.
    Frames,
    /// Seconds per iteration of a progress bar.
    SecondsPerIt,
    /// Seconds per iteration.
    SecondsPerIter,
    /// Seconds per step.
    SecondsPerStep,
    /// Seconds per batch.
    SecondsPerBatch,
    /// Seconds per epoch.
    SecondsPerEpoch,
    /// Milliseconds per step.
    MillisPerStep,
    /// Microseconds per step.
    MicrosPerStep,
}

impl Unit {
    /// The unit as it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tokens => "tokens/s",
            Self::TokensPerGpu => "tokens/s/gpu",
            Self::TokensPerDevice => "tokens/s/device",
            Self::Words => "words/s",
            Self::Samples => "samples/s",
            Self::Images => "images/s",
            Self::Iterations => "it/s",
            Self::Steps => "steps/s",
            Self::Batches => "batches/s",
            Self::Epochs => "epochs/s",
            Self::Frames => "frames/s",
            Self::SecondsPerIt => "s/it",
            Self::SecondsPerIter => "s/iter",
            Self::SecondsPerStep => "s/step",
            Self::SecondsPerBatch => "s/batch",
            Self::SecondsPerEpoch => "s/epoch",
            Self::MillisPerStep => "ms/step",
            Self::MicrosPerStep => "us/step",
        }
    }

    /// Seconds per step of a speed of `value`, where the unit says so.
    pub fn step_time_s(self, value: f64) -> Option<f64> {
        match self {
            Self::Iterations | Self::Steps | Self::Batches => (value > 0.0).then(|| 1.0 / value),
            Self::SecondsPerIt
            | Self::SecondsPerIter
            | Self::SecondsPerStep
            | Self::SecondsPerBatch => Some(value),
            Self::MillisPerStep => Some(value / 1e3),
            Self::MicrosPerStep => Some(value / 1e6),
            _ => None,
        }
    }

    /// How much it says, the most first: tokens do not depend on the batch, samples not on its size, steps on both.
    pub(crate) fn rank(self) -> u8 {
        match self {
            Self::Tokens | Self::TokensPerGpu | Self::TokensPerDevice | Self::Words => 0,
            Self::Samples | Self::Images => 1,
            Self::Epochs | Self::SecondsPerEpoch => 3,
            _ => 2,
        }
    }
}

impl Serialize for Unit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Units as they stand behind a number.
const WRITTEN: &[(&str, Unit)] = &[
    ("tok/s", Unit::Tokens),
    ("tok/sec", Unit::Tokens),
    ("toks/s", Unit::Tokens),
    ("toks/sec", Unit::Tokens),
    ("token/s", Unit::Tokens),
    ("tokens/s", Unit::Tokens),
    ("tokens/sec", Unit::Tokens),
    ("tokens/second", Unit::Tokens),
    ("tok/s/gpu", Unit::TokensPerGpu),
    ("tokens/s/gpu", Unit::TokensPerGpu),
    ("tokens/sec/gpu", Unit::TokensPerGpu),
    ("tok/s/device", Unit::TokensPerDevice),
    ("tokens/s/device", Unit::TokensPerDevice),
    ("words/s", Unit::Words),
    ("words/sec", Unit::Words),
    ("samples/s", Unit::Samples),
    ("samples/sec", Unit::Samples),
    ("samples/second", Unit::Samples),
    ("sample/s", Unit::Samples),
    ("sequences/s", Unit::Samples),
    ("examples/s", Unit::Samples),
    ("examples/sec", Unit::Samples),
    ("ex/s", Unit::Samples),
    ("ins/s", Unit::Samples),
    ("/s", Unit::Samples),
    ("img/s", Unit::Images),
    ("img/sec", Unit::Images),
    ("img/sec/core", Unit::Images),
    ("imgs/s", Unit::Images),
    ("imgs/sec", Unit::Images),
    ("image/s", Unit::Images),
    ("images/s", Unit::Images),
    ("images/sec", Unit::Images),
    ("im/s", Unit::Images),
    ("it/s", Unit::Iterations),
    ("it/sec", Unit::Iterations),
    ("its/s", Unit::Iterations),
    ("iter/s", Unit::Iterations),
    ("iter/sec", Unit::Iterations),
    ("iters/s", Unit::Iterations),
    ("iters/sec", Unit::Iterations),
    ("iterations/s", Unit::Iterations),
    ("step/s", Unit::Steps),
    ("steps/s", Unit::Steps),
    ("steps/sec", Unit::Steps),
    ("steps/second", Unit::Steps),
    ("ba/s", Unit::Batches),
    ("batch/s", Unit::Batches),
    ("batches/s", Unit::Batches),
    ("epoch/s", Unit::Epochs),
    ("fps", Unit::Frames),
    ("frames/s", Unit::Frames),
    ("s/it", Unit::SecondsPerIt),
    ("sec/it", Unit::SecondsPerIt),
    ("s/iter", Unit::SecondsPerIter),
    ("sec/iter", Unit::SecondsPerIter),
    ("s/iteration", Unit::SecondsPerIter),
    ("s/step", Unit::SecondsPerStep),
    ("sec/step", Unit::SecondsPerStep),
    ("seconds/step", Unit::SecondsPerStep),
    ("s/ba", Unit::SecondsPerBatch),
    ("s/batch", Unit::SecondsPerBatch),
    ("s/epoch", Unit::SecondsPerEpoch),
    ("ms/step", Unit::MillisPerStep),
    ("ms/it", Unit::MillisPerStep),
    ("ms/iter", Unit::MillisPerStep),
    ("ms/batch", Unit::MillisPerStep),
    ("us/step", Unit::MicrosPerStep),
];

/// The speed that a unit behind a number stands for.
pub fn speed(text: &[u8]) -> Option<Unit> {
    if let Some(counted) = per_second(text) {
        return WRITTEN
            .iter()
            .find(|(known, _)| {
                let known = known.strip_suffix("/s").unwrap_or_default();
                counted.eq_ignore_ascii_case(known.as_bytes())
            })
            .map(|(_, unit)| *unit);
    }
    // Most words behind numbers are none; all other speeds but one have a slash.
    if !text.contains(&b'/') && !text.eq_ignore_ascii_case(b"fps") {
        return None;
    }
    let text = match text {
        [b'k' | b'K' | b'M', b' ', rest @ ..] => rest,
        all => all,
    };
    WRITTEN
        .iter()
        .find(|(known, _)| text.eq_ignore_ascii_case(known.as_bytes()))
        .map(|(_, unit)| *unit)
}

/// What is counted in `samples per second`, `sample_per_sec`.
fn per_second(text: &[u8]) -> Option<&[u8]> {
    [
        &b" per second"[..],
        b" per sec",
        b"_per_second",
        b"_per_sec",
    ]
    .iter()
    .find_map(|end| text.strip_suffix(*end))
    .filter(|counted| !counted.is_empty())
}

/// Whether a word after a space belongs to the number before it.
pub fn is_known(text: &[u8]) -> bool {
    is_time(text) || speed(text).is_some()
}

/// Whether this is a unit of time.
pub fn is_time(text: &[u8]) -> bool {
    matches!(text, b"ms" | b"s" | b"us" | b"sec" | b"secs" | b"seconds")
}

/// The time per step that a duration's unit stands for; without a unit, seconds.
pub fn step_time(text: &[u8]) -> Option<Unit> {
    match text {
        b"" | b"s" | b"sec" | b"secs" | b"seconds" => Some(Unit::SecondsPerStep),
        b"ms" | b"msec" | b"millis" | b"milliseconds" => Some(Unit::MillisPerStep),
        b"us" => Some(Unit::MicrosPerStep),
        _ => speed(text).filter(|unit| unit.step_time_s(1.0).is_some()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_known_however_they_are_written() {
        for (text, expected) in [
            ("tok/s", Some("tokens/s")),
            ("Samples/sec", Some("samples/s")),
            ("s/it", Some("s/it")),
            ("FPS", Some("frames/s")),
            ("k tok/s", Some("tokens/s")),
            ("sample_per_sec", Some("samples/s")),
            ("tokens per second", Some("tokens/s")),
            ("miles per second", None),
            (" per second", None),
            ("GB/s", None),
            ("ms", None),
        ] {
            let got = speed(text.as_bytes()).map(Unit::as_str);
            assert_eq!(got, expected, "{text}");
        }
        assert!(is_known(b"ms") && !is_known(b"epoch"));
    }

    #[test]
    fn a_step_time_needs_a_unit_of_time() {
        for (text, expected) in [
            ("", Some("s/step")),
            ("ms", Some("ms/step")),
            ("s/iter", Some("s/iter")),
            ("tok/s", None),
            ("m", None),
        ] {
            let got = step_time(text.as_bytes()).map(Unit::as_str);
            assert_eq!(got, expected, "{text}");
        }
    }

    #[test]
    fn speeds_of_steps_are_step_times() {
        for (unit, value, expected) in [
            (Unit::Iterations, 4.0, Some(0.25)),
            (Unit::MillisPerStep, 250.0, Some(0.25)),
            (Unit::SecondsPerIt, 2.0, Some(2.0)),
            (Unit::Iterations, 0.0, None),
            (Unit::Tokens, 5.0, None),
        ] {
            assert_eq!(unit.step_time_s(value), expected);
        }
    }
}
