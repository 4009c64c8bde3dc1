//! Progress bars of tqdm: `Training:  34%|###   | 17070/50000 [31:57<1:32:27,  5.94it/s, loss=0.13]`.

use super::Record;
use super::number::number;
use super::text;

/// Words in a bar's name that say it is the training.
const TRAINING: [&str; 5] = ["train", "epoch", "step", "iter", "optimi"];

/// Words that say it is not, even beside one of the others.
const OTHER: [&str; 5] = ["eval", "valid", "test", "load", "download"];

/// Tells the training's bar from those of other work.
#[derive(Debug, Default)]
pub struct Bars {
    /// Total and position of the bar that is taken for the training's.
    training: Option<(u64, u64)>,
}

impl Bars {
    /// Reads a bar: what it says about the training, and the rest of the line after it. `None` when the line has no bar.
    pub fn read<'a>(&mut self, line: &'a [u8]) -> Option<(Record, &'a [u8])> {
        let bar = Bar::parse(line)?;
        let record = if self.is_training(&bar) {
            bar.record()
        } else {
            Record::default()
        };
        Some((record, bar.rest))
    }

    fn is_training(&mut self, bar: &Bar<'_>) -> bool {
        let has = |words: &[&str]| words.iter().any(|word| contains(bar.name, word));
        let named = !bar.name.is_empty();
        if named && (has(&OTHER) || !has(&TRAINING)) && bar.postfix.loss.is_none() {
            return false;
        }
        // A bar of another length inside one that is not finished is an evaluation or a nested loop.
        let nested = self
            .training
            .is_some_and(|(total, step)| total != bar.total && step < total);
        if nested && !named && bar.postfix.loss.is_none() {
            return false;
        }
        self.training = Some((bar.total, bar.step));
        true
    }
}

struct Bar<'a> {
    name: &'a [u8],
    step: u64,
    total: u64,
    step_time_s: Option<f64>,
    postfix: Record,
    rest: &'a [u8],
}

impl<'a> Bar<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let percent = line.windows(2).position(|pair| pair == b"%|")?;
        let digits = line[..percent]
            .iter()
            .rev()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        if digits == 0 {
            return None;
        }
        let name = line[..percent - digits].trim_ascii();
        let name = name.strip_suffix(b":").unwrap_or(name);
        let drawing = &line[percent + 2..];
        let counts = &drawing[drawing.iter().position(|byte| *byte == b'|')? + 1..];
        let (step, total, brackets) = positions(counts.trim_ascii_start())?;
        let brackets = brackets.trim_ascii_start().strip_prefix(b"[")?;
        let end = brackets
            .iter()
            .position(|byte| *byte == b']')
            .unwrap_or(brackets.len());
        let (times, rest) = (
            &brackets[..end],
            brackets.get(end + 1..).unwrap_or_default(),
        );
        // `31:57<1:32:27,  5.94it/s, loss=0.13`
        let after_times = times
            .iter()
            .position(|byte| *byte == b',')
            .map_or(&times[times.len()..], |at| &times[at + 1..]);
        let (rate, postfix) = after_times.split_at(
            after_times
                .iter()
                .position(|b| *b == b',')
                .unwrap_or(after_times.len()),
        );
        let postfix = text::read_postfix(postfix);
        Some(Self {
            name,
            step,
            total,
            step_time_s: step_time_s(rate.trim_ascii()),
            postfix,
            rest,
        })
    }

    fn record(&self) -> Record {
        let step_time_s = self.step_time_s.or(self.postfix.step_time_s);
        let counts = Record {
            step: Some(self.step),
            total_steps: Some(self.total),
            step_time_s,
            ..Record::default()
        };
        // The bar itself counts; a postfix may name the global step, which a bar per epoch does not know.
        let mut record = counts;
        record.update(&Record {
            total_steps: None,
            step_time_s: None,
            ..self.postfix
        });
        if self.postfix.step.is_some_and(|step| step != self.step) {
            record.total_steps = self.postfix.total_steps;
        }
        record
    }
}

/// `17070/50000`; sizes such as `1.2G/2.4G` are transfers, not steps.
fn positions(text: &[u8]) -> Option<(u64, u64, &[u8])> {
    let whole = |text: &[u8]| {
        let (value, length) = number(text)?;
        (value >= 0.0 && value.fract() == 0.0 && value < u64::MAX as f64)
            .then_some((value as u64, length))
    };
    let (step, length) = whole(text)?;
    let rest = text[length..].strip_prefix(b"/")?;
    let (total, length) = whole(rest)?;
    Some((step, total, &rest[length..]))
}

/// `5.94it/s` or `3.53s/it`; tqdm prints whichever is above one. Some trainers call the unit a step or a batch.
fn step_time_s(rate: &[u8]) -> Option<f64> {
    let (value, length) = number(rate)?;
    let unit = rate[length..].trim_ascii();
    let step = |unit: &[u8]| [&b"it"[..], b"step", b"steps", b"iter", b"batch"].contains(&unit);
    if let Some(per) = unit.strip_suffix(b"/s") {
        (step(per) && value > 0.0).then(|| 1.0 / value)
    } else {
        unit.strip_prefix(b"s/").is_some_and(step).then_some(value)
    }
}

/// Whether a text holds a lower-case word in any case.
fn contains(text: &[u8], word: &str) -> bool {
    text.windows(word.len())
        .any(|window| window.eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Step, total, seconds per step, rest of the line.
    type Parts<'a> = (Option<u64>, Option<u64>, Option<f64>, &'a str);

    fn check(line: &str, expected: Option<Parts<'_>>) {
        let got = Bars::default().read(line.as_bytes()).map(|(record, rest)| {
            (
                record.step,
                record.total_steps,
                record.step_time_s,
                String::from_utf8_lossy(rest).into_owned(),
            )
        });
        let expected =
            expected.map(|(step, total, time, rest)| (step, total, time, rest.to_owned()));
        assert_eq!(got, expected, "{line}");
    }

    #[test]
    fn bars_are_read_with_all_their_parts() {
        check(
            " 50%|##  | 12/24 [00:44<00:42,  4.0s/it]tail",
            Some((Some(12), Some(24), Some(4.0), "tail")),
        );
        check(
            "100%|####| 24/24 [01:22<00:00,  2.0step/s, loss=1]",
            Some((Some(24), Some(24), Some(0.5), "")),
        );
        check(
            "Epoch 3:   5%|# | 1,000/20,000 [00:01<00:19, ?it/s]",
            Some((Some(1000), Some(20_000), None, "")),
        );
        check(
            "  0%|    | 0/8 [00:00<?",
            Some((Some(0), Some(8), None, "")),
        );
        check(
            "Fetching 8 files:  50%|##  | 4/8 [00:01<00:01,  3.0it/s]",
            Some((None, None, None, "")),
        );
    }

    #[test]
    fn what_only_looks_like_a_bar_is_none() {
        for line in [
            "50%| no",
            "%|##| 1/2 [",
            "5%|# | a/b [",
            "5%|# | 1.5/2 [00:01]",
            "5%|# | 1/2",
            "mfu 3%",
            "",
        ] {
            check(line, None);
        }
    }

    #[test]
    fn a_global_step_in_the_postfix_wins_over_the_position_in_the_epoch() {
        check(
            "Epoch 2:  10%|# | 5/50 [00:05<00:45, 1.0it/s, step=105, loss=1.0]",
            Some((Some(105), None, Some(1.0), "")),
        );
    }
}
