//! Where a record stands in its training: positions by names that count only in their place, in brackets, and by units.

use memchr::memmem;

use super::{Found, epoch, speed_value};
use crate::{
    names::{Meaning, meaning},
    number::Printed,
    scan::{Pair, Separator, is_evaluation},
    unit,
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
        // I-JEPA: `[1,   10] loss: 0.9 (919.1 ms)`.
        if pair.unit == b"ms" && self.time.is_none() {
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
        let Some(of) = pair.of else {
            if pair.bracketed {
                let in_epoch = self.record.within_epoch && self.step_rank.is_none();
                self.take_step(line, pair, if in_epoch { 5 } else { 6 });
            }
            return;
        };
        let after_epoch = self.epoch_end.is_some_and(|end| {
            line.get(end..pair.start).is_some_and(|gap| {
                gap.iter()
                    .all(|byte| matches!(byte, b' ' | b':' | b',' | b'|' | b'('))
            })
        });
        // Keras with `verbose=2`: `469/469 - 3s - loss: 0.2`.
        let leads =
            line[..pair.start].trim_ascii().is_empty() && line[pair.end..].starts_with(b" - ");
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
