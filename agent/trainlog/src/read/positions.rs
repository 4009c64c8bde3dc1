//! Where a record stands in its training: positions by names that count only in their place, in brackets, and by units.

use memchr::memmem;

use super::{Found, epoch, speed_value};
use crate::{
    names::{Meaning, meaning},
    number::{self, Printed, Text},
    record::Record,
    scan::{Pair, Scanner, Separator, is_evaluation},
    unit::{self, Unit},
};

impl Found {
    /// Names that count only where they stand.
    pub(super) fn take_special(&mut self, line: &[u8], pair: &Pair<'_>) -> bool {
        let name = pair.name;
        // timm: `Train: 0 [  50/1000 ( 5%)]`.
        let plain = name.strip_prefix(b"INFO ").unwrap_or(name);
        let is_train =
            plain.eq_ignore_ascii_case(b"train") || plain.eq_ignore_ascii_case(b"training");
        if is_train && pair.of.is_none() {
            let rest = line[pair.end..].trim_ascii_start();
            if rest.starts_with(b"[") {
                self.record.epoch = self.record.epoch.or_else(|| epoch(pair.value));
                self.record.within_epoch = true;
            }
            return true;
        }
        // OpenPCDet: `Train:    1/80 (  1%) [  50/3712 (  1%)]`.
        if is_train && pair.of.is_some() && !pair.bracketed {
            let mut rest = line[pair.end..].trim_ascii_start();
            if let (Some(b'('), Some(close)) = (rest.first(), memchr::memchr(b')', rest)) {
                rest = rest[close + 1..].trim_ascii_start();
            }
            if rest.first() == Some(&b'[') {
                self.record.epoch = self.record.epoch.or_else(|| epoch(pair.value));
                self.record.total_epochs = pair.of.and_then(epoch);
                self.record.within_epoch = true;
                return true;
            }
        }
        // LION: `E79 iter[ 14/ 15]`.
        if let Some(number) = name
            .strip_prefix(b"E")
            .and_then(|rest| rest.strip_suffix(b" iter"))
            && number.iter().all(u8::is_ascii_digit)
        {
            self.record.epoch = self.record.epoch.or_else(|| epoch(number));
        }
        // DINO: `Training  [   10/125000]`; Swin: `Train: [0/300][10/1251]`.
        if is_train && pair.bracketed {
            let rest = &line[pair.end..];
            if rest.starts_with(b"[") || rest.starts_with(b"][") {
                self.record.epoch = self.record.epoch.or_else(|| epoch(pair.value));
                self.record.total_epochs = pair.of.and_then(epoch);
                self.record.within_epoch = true;
            } else {
                self.take_step(line, pair, 3);
            }
            return true;
        }
        // `Test: [  10/200]`, `Iter(val) [17/17]`.
        if (pair.of.is_some() || pair.bracketed)
            && name
                .split(|byte| matches!(byte, b' ' | b'(' | b')'))
                .any(is_evaluation)
        {
            self.evaluation = true;
            return true;
        }
        // `[10]\ttrain-rmse:0.5\teval-rmse:0.6` of boosters.
        if self.step_rank == Some(6) && pair.separator == Separator::Sign {
            let starts = |known: &[u8]| {
                name.len() > known.len() && name[..known.len()].eq_ignore_ascii_case(known)
            };
            let is_learn = name == b"learn";
            if is_learn || starts(b"train-") || starts(b"training's") {
                self.boosting = true;
                self.record.loss = self.record.loss.or(Printed::measure(pair.value));
                self.loss_by_sign = true;
                return true;
            }
            if starts(b"valid") || starts(b"eval-") || starts(b"test-") {
                self.boosting = true;
                return true;
            }
        }
        false
    }

    /// ESPnet: `3epoch:train:1-200batch:`.
    pub(super) fn take_by_unit(&mut self, line: &[u8], pair: &Pair<'_>) -> bool {
        match pair.unit {
            b"epoch" | b"epochs" => {
                self.record.epoch = self.record.epoch.or_else(|| epoch(pair.value));
                self.epoch_end.get_or_insert(pair.end);
            }
            b"batch" => self.take_step(line, pair, 3),
            _ => return false,
        }
        true
    }

    pub(super) fn take_nameless(&mut self, line: &[u8], pair: &Pair<'_>) {
        let gap = self
            .loss_awaited
            .take()
            .and_then(|end| line.get(end..pair.start));
        if let Some(b": " | b":" | b" = " | b" - ") = gap {
            self.record.loss = Printed::measure(pair.value);
            self.loss_rank = Some(0);
            self.loss_by_sign = true;
            return;
        }
        if let Some(unit) = unit::speed(pair.unit) {
            if let Some(value) = speed_value(pair) {
                self.record.add_speed(value, unit);
            }
            return;
        }
        if self.take_by_unit(line, pair) {
            return;
        }
        // CatBoost: `10:\tlearn: 0.6612\ttest: 0.6621`.
        let rest = line.get(pair.end..).unwrap_or_default();
        if rest.starts_with(b":\tlearn: ") {
            return self.take_step(line, pair, 6);
        }
        // I-JEPA: `[1,   10] loss: 0.9 (919.1 ms)`; `02m 16s 008ms` is one duration.
        let goes_on = line[..pair.start]
            .trim_ascii_end()
            .last()
            .is_some_and(u8::is_ascii_alphanumeric);
        if pair.unit == b"ms" && self.time.is_none() && !goes_on {
            return self.take_time(pair, 4);
        }
        // `[0/5][50/1583]`, `[3][100/500]`, `[1,  2000]`: the epoch, then the position in it.
        let of_two = rest.starts_with(b", ") && line[pair.end - 1] != b']';
        if pair.bracketed && (of_two || matches!(rest, [b'[', b' ' | b'0'..=b'9', ..])) {
            self.record.epoch = self.record.epoch.or_else(|| epoch(pair.value));
            self.record.total_epochs = pair.of.and_then(epoch);
            self.record.within_epoch = true;
            return;
        }
        let leads = line[..pair.start].trim_ascii().is_empty();
        let Some(of) = pair.of else {
            // `480 | loss 4.1 | lr 9e-4`, and `[  3]     480 || B: 3.4 | C: 2.9 || timer: 1.3` below its epoch.
            if rest.starts_with(b" || ") && self.step_rank == Some(6) {
                self.record.epoch = self.record.epoch.or(self.record.step);
                self.take_step(line, pair, 5);
            } else if leads && rest.starts_with(b" | ") && !pair.bracketed {
                self.take_step(line, pair, 5);
            } else if pair.bracketed {
                let in_epoch = self.record.within_epoch && self.step_rank.is_none();
                self.take_step(line, pair, if in_epoch { 5 } else { 6 });
            }
            return;
        };
        let after_epoch = self.epoch_end.is_some_and(|end| {
            line.get(end..pair.start).is_some_and(|gap| {
                gap.iter()
                    .all(|byte| matches!(byte, b' ' | b':' | b',' | b'|' | b'(' | b']'))
            })
        });
        // Keras with `verbose=2`: `469/469 - 3s - loss: 0.2`.
        let leads = leads && rest.starts_with(b" - ");
        self.record.within_epoch |= pair.bracketed && after_epoch;
        if pair.bracketed || after_epoch || leads {
            self.take_step(line, pair, 1);
        } else if self.fraction.is_none() {
            self.fraction = Printed::count(of, b"");
        }
    }

    pub(super) fn take_step(&mut self, line: &[u8], pair: &Pair<'_>, rank: u8) {
        let rank = if pair.of.is_some() {
            rank.saturating_sub(2)
        } else {
            rank
        };
        self.step_end = self.step_end.max(pair.end);
        // WeNet's `TRAIN Batch 0/100` is an epoch and its batch.
        let batch = pair.of.filter(|_| pair.name.ends_with(b"TRAIN Batch"));
        if let Some(batch) = batch.and_then(|batch| Printed::count(batch, b"")) {
            self.record.epoch = self.record.epoch.or_else(|| epoch(pair.value));
            self.record.step = Some(batch);
            self.step_rank = Some(rank);
            return;
        }
        if self.step_rank.is_some_and(|old| old <= rank) {
            return;
        }
        // A letter after a space is the next word; glued to the number it is thousands or millions.
        let glued = line.get(pair.at + pair.value.len()) != Some(&b' ');
        let unit = if glued { pair.unit } else { &[] };
        let Some(step) = Printed::count(pair.value, unit) else {
            return;
        };
        self.record.step = Some(step);
        self.record.total_steps = pair
            .of
            .and_then(|of| Printed::position(of, unit))
            .or(self.record.total_steps);
        self.step_rank = Some(rank);
        let by = [&b"iter"[..], b"Iter", b"Iter(train)"];
        self.by_iter = by.iter().any(|name| pair.name.ends_with(name));
        self.by_update = pair.name.ends_with(b"Up.");
    }
}

/// `INFO:voice:[200, 9.99875e-05]` of voice converters: losses, the first of them that of the generator's rival, if any; the step; the
/// learning rate. Lines below it name the losses.
pub(super) fn step_and_rate(line: &[u8]) -> Option<Record> {
    let inside = line.trim_ascii_end().strip_suffix(b"]")?;
    let open = memchr::memrchr(b'[', inside)?;
    let by_logger = memmem::find(&inside[..open], b"INFO").is_some();
    let mut items = inside[open + 1..].rsplit(|byte| *byte == b',');
    let mut next = || {
        let item = items.next()?.trim_ascii();
        (number::length(item) == item.len()).then_some(item)
    };
    let rate = Printed::measure(next()?).filter(|rate| rate.value > 0.0 && rate.value < 0.01)?;
    let step = next().filter(|step| step.iter().all(u8::is_ascii_digit))?;
    let mut record = Record {
        step: Printed::count(step, b""),
        learning_rate: Some(rate),
        ..Record::default()
    };
    for item in items {
        record.loss = Some(Printed::measure(item.trim_ascii())?);
    }
    by_logger.then_some(record)
}

/// Darknet names its values behind them: `1278: 3.23, 2.96 avg loss, 0.01 rate, 2.55 seconds, 81792 images, 30.5 hours left`.
pub(super) fn named_behind(line: &[u8]) -> Option<Record> {
    let line = line.trim_ascii();
    let digits = line.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (step, rest) = line.split_at(digits);
    let rest = rest.strip_prefix(b": ").filter(|_| digits > 0)?;
    let mut record = Record {
        step: Printed::count(step, b""),
        ..Record::default()
    };
    for part in rest.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        let (value, name) = part.split_at(number::length(part));
        let value = Printed::measure(value)?;
        match name.trim_ascii() {
            b"avg loss" | b"avg" => record.loss = Some(value),
            b"rate" => record.learning_rate = Some(value),
            b"seconds" => record.add_speed(value, Unit::SecondsPerStep),
            b"hours left" => record.remaining = Some(Text::new(part.strip_suffix(b" left")?)),
            b"" | b"images" => {}
            _ => return None,
        }
    }
    (record.loss.is_some() && record.learning_rate.is_some()).then_some(record)
}

/// Tesseract: `At iteration 212/400/402, Mean rms=3.1%, delta=2.5%, char train=9.1%`: steps that taught something, all steps, and
/// all that were read.
pub(super) fn counted_thrice(line: &[u8]) -> Option<Record> {
    let rest = line.trim_ascii_start().strip_prefix(b"At iteration ")?;
    let end = memmem::find(rest, b"ean rms=").filter(|end| *end < 64)?;
    let step = rest[..end].split(|byte| *byte == b'/').next()?;
    Some(Record {
        step: Some(Printed::count(step, b"")?),
        ..Record::default()
    })
}

/// Kaldi: `Average objective function for 'output' for minibatches 50-59 is -0.18 over 19423 frames.`
pub(super) fn of_minibatches(line: &[u8]) -> Option<Record> {
    const SIGN: &[u8] = b" for minibatches ";
    let at = memmem::find(line, SIGN)? + SIGN.len();
    let dash = at + memchr::memchr(b'-', &line[at..]).filter(|dash| *dash < 12)?;
    let rest = &line[dash + 1..];
    let (last, rest) = rest.split_at(number::length(rest));
    let value = rest.strip_prefix(b" is ")?;
    Some(Record {
        step: Some(Printed::count(last, b"")?),
        loss: Some(Printed::measure(&value[..number::length(value)])?),
        ..Record::default()
    })
}

/// Rivals have no common loss: `(epoch: 1, iters: 100, time: 0.5, data: 0.1) D_A: 0.2 G_A: 0.3`. The first is taken, as with the
/// columns of a table.
pub(super) fn first_behind_bracket(line: &[u8]) -> Option<Printed> {
    let open = memmem::find(line, b"(epoch: ")?;
    let close = open + memchr::memchr(b')', &line[open..])?;
    let first = Scanner::new(&line[close + 1..]).next()?;
    let measured = first.separator == Separator::Sign && first.start == 1;
    Printed::measure(first.value)
        .filter(|_| measured && memchr::memchr(b'.', first.value).is_some())
}

/// The position in `Loss at step 100: 2.3`, `Cost after iteration 100: 0.6`, and whether the loss is of an evaluation.
pub(super) fn position_of_loss(pair: &Pair<'_>) -> Option<(Meaning, bool)> {
    if pair.separator != Separator::Space {
        return None;
    }
    let (at, word) = [&b" at "[..], b" after ", b" in "]
        .into_iter()
        .find_map(|word| Some((memmem::find(pair.name, word)?, word)))?;
    let (before, position) = (&pair.name[..at], &pair.name[at + word.len()..]);
    let position = meaning(position)?.meaning;
    if !matches!(position, Meaning::Step(_) | Meaning::Epoch) {
        return None;
    }
    match meaning(before)?.meaning {
        Meaning::Loss(rank) if rank <= 5 => Some((position, false)),
        Meaning::EvalLoss => Some((position, true)),
        _ => None,
    }
}

/// `base_trainer:train_epochs:256 - `: where in a program a line was written.
pub(super) fn is_place_of_code(line: &[u8], pair: &Pair<'_>) -> bool {
    let glued = |at: usize| at > 0 && line[at - 1] == b':';
    let rest = &line[pair.end..];
    let whole = pair.value.iter().all(u8::is_ascii_digit);
    whole
        && glued(pair.at)
        && glued(pair.start)
        && (rest.starts_with(b" - ") || rest.starts_with(b" | "))
}

/// `--steps 1000`: what a program was started with.
pub(super) fn is_argument(line: &[u8], pair: &Pair<'_>) -> bool {
    let before = &line[..pair.start];
    (before == b"--" || before.ends_with(b" --"))
        && pair.name.first().is_some_and(u8::is_ascii_lowercase)
}

/// `Cost: 675.8 sec`, `cost 12.5 min`, `cost: $1.25`: what was spent is no loss.
pub(super) fn is_expense(line: &[u8], pair: &Pair<'_>) -> bool {
    let rest = line[pair.end..].trim_ascii_start();
    let letters = rest
        .iter()
        .take_while(|byte| byte.is_ascii_alphabetic())
        .count();
    let is_cost = pair.name.to_ascii_lowercase().ends_with(b"cost");
    let long = [pair.unit, &rest[..letters]].iter().any(|unit| {
        matches!(
            *unit,
            b"m" | b"min" | b"mins" | b"minutes" | b"h" | b"hours" | b"USD"
        )
    });
    unit::is_time(pair.unit) || is_cost && long || line[..pair.at].ends_with(b"$")
}

/// Whether nothing but a bracket or another prefix stands before a name.
pub(super) fn leads_line(line: &[u8], pair: &Pair<'_>) -> bool {
    let before = line[..pair.start].trim_ascii_end();
    matches!(
        before.last(),
        None | Some(b'[' | b'(' | b']' | b')' | b'|' | b':' | b'-' | b'>')
    )
}

/// Whether a name has a word for a mean.
pub(super) fn is_mean(name: &[u8]) -> bool {
    name.split(|byte| matches!(byte, b' ' | b'_' | b'.' | b'/'))
        .any(|word| {
            [&b"avg"[..], b"average", b"mean"]
                .iter()
                .any(|mean| word.eq_ignore_ascii_case(mean))
        })
}

/// `Saving state, iter: 5000`, `loaded checkpoint (step 300)`: a position that no values follow.
pub(super) fn speaks_of_files(line: &[u8]) -> bool {
    let words = line.split(|byte| !byte.is_ascii_alphabetic());
    let starts = |word: &[u8], with: &[u8]| {
        word.len() >= with.len() && word[..with.len()].eq_ignore_ascii_case(with)
    };
    words.into_iter().any(|word| {
        [&b"sav"[..], b"load", b"checkpoint", b"resum", b"restor"]
            .iter()
            .any(|with| starts(word, with))
    })
}
