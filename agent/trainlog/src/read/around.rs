//! What stands around a bar: metrics behind it, columns and names before it.

use super::{Found, epoch};
use crate::{
    bar::Bar,
    number::Printed,
    record::Record,
    scan::{Scanner, Separator},
};

/// Reads what the trainer wrote around a bar: its metrics, with the bar's position. `None` when there are none.
pub fn around(bar: &Bar<'_>) -> Option<Record> {
    let mut found = Found::default();
    for pair in Scanner::new(bar.prefix) {
        found.take(bar.prefix, &pair);
    }
    row_before(bar.prefix, &mut found);
    // An epoch in the bar's name, not among its metrics, is what the bar measures.
    let named = found.record.epoch.is_some();
    let mut record = Record::default();
    if let Some((value, unit)) = bar.rate {
        record.add_speed(value, unit);
    }
    for pair in Scanner::new(bar.postfix) {
        // In a notebook, `Epoch 0.36/5` is among them without a sign.
        if pair.separator == Separator::Sign || pair.name == b"Epoch" && pair.of.is_some() {
            found.take(bar.postfix, &pair);
        }
    }
    found.record.step = Some(bar.position);
    found.settle_time();
    let inner = found.record;
    record.epoch = inner.epoch;
    record.total_epochs = inner.total_epochs;
    record.within_epoch = named && inner.epoch.is_some();
    record.tokens_per_s_per_gpu = inner.tokens_per_s_per_gpu;
    record.tokens_per_s = record.tokens_per_s.or(inner.tokens_per_s);
    record.loss = inner.loss;
    record.eval_loss = inner.eval_loss;
    record.learning_rate = inner.learning_rate;
    record.grad_norm = inner.grad_norm;
    record.rewarded = inner.rewarded;
    if let Some(speed) = inner.throughput {
        record.add_speed(speed.value, speed.unit);
    }
    record.step = Some(bar.position);
    record.total_steps = bar.total;
    record.remaining = bar.remaining;
    record.speed_unknown = bar.remaining.is_some() && record.throughput.is_none();
    Some(record)
}

/// The columns that YOLO and torchtune print before their bars: `13/299  6.46G  0.01052  0.0081`, `1|3251|Loss: 1.5`.
fn row_before(prefix: &[u8], found: &mut Found) {
    let prefix = prefix.trim_ascii();
    let mut words = prefix
        .split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty());
    let Some(first) = words.next() else { return };
    let digits = first
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    if digits == 0 {
        return;
    }
    match first.get(digits) {
        Some(b'|') => found.record.epoch = epoch(&first[..digits]),
        Some(b'/') => {
            let memory = words
                .next()
                .is_some_and(|word| matches!(word, [b'0'..=b'9', .., b'G' | b'M']));
            let loss = words.next().filter(|_| memory);
            if let Some(loss) = loss.and_then(Printed::measure) {
                found.record.epoch = epoch(&first[..digits]);
                found.record.total_epochs = epoch(&first[digits + 1..]);
                found.record.loss = found.record.loss.or(Some(loss));
            }
        }
        _ => {}
    }
}
