//! Records that come in several lines: headers and what stands below them, rows of tables, values above and below a record.

use super::{Seen, SeenKind, State};
use crate::{
    number::Printed,
    read::{Kind, Reading},
    record::Record,
};

/// A block of lines under one position stays open for this many bytes.
const BLOCK_BYTES: u64 = 16 << 10;

/// A record that comes in several lines: a header with the position, or the rows of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    record: Record,
    line: u64,
    rank: Option<u32>,
    /// Where its last line was, in bytes from the start of the log.
    at: u64,
    table: bool,
}

/// The last record, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unfinished {
    kind: Kind,
    record: Record,
    /// It came with its loss: one further below is another's.
    has_loss: bool,
    /// Where its last line was, in bytes from the start of the log.
    at: u64,
}

impl State {
    /// Gives a reading the epoch and the position that lines before it said.
    pub(super) fn resolve(
        &mut self,
        reading: &mut Reading,
        place: u64,
        rank: Option<u32>,
        seen: &mut dyn FnMut(&Seen),
    ) {
        let open = self
            .block
            .filter(|block| !block.table && place.saturating_sub(block.at) < BLOCK_BYTES);
        match (reading.kind, open) {
            (Kind::Epoch, _) => {
                self.close_block(seen);
                let text = |epoch: Option<Printed>| epoch.map(|epoch| epoch.text);
                self.moves += u64::from(text(self.epoch) != text(reading.record.epoch));
                self.epoch = reading.record.epoch;
                self.total_epochs = reading.record.total_epochs;
            }
            // `Total timesteps: 98304` below `Learning iteration 119/12000` counts something else.
            (Kind::Header, Some(block))
                if block.record.total_steps.is_some() && reading.record.total_steps.is_none() => {}
            (Kind::Header, _) => {
                self.close_block(seen);
                self.open_block(reading.record, place, rank, false);
            }
            (Kind::Bare | Kind::Fallback | Kind::Part, Some(mut block))
                if reading.record.step.is_none() =>
            {
                block.record.complete(&reading.record);
                block.at = place;
                self.block = Some(block);
            }
            // nnU-Net tells the learning rate of an epoch before its loss.
            (Kind::Part, _) if self.is_rate_of_next(&reading.record) => {
                self.rate = reading.record.learning_rate.map(|rate| (rate, place));
            }
            (Kind::Part, _) if self.finish(&reading.record, place, seen) => {}
            (Kind::Fallback, _)
                if !self.is_of_another_epoch(&reading.record)
                    && self.finish(&reading.record, place, seen) => {}
            (Kind::Part, _) => {}
            (Kind::Evaluation, _) => self.evaluation(reading.record, seen),
            (kind, _) => {
                self.close_block(seen);
                let record = &mut reading.record;
                if let (Kind::Bare | Kind::Fallback, Some((rate, at))) = (kind, self.rate.take())
                    && place.saturating_sub(at) < BLOCK_BYTES
                {
                    record.learning_rate.get_or_insert(rate);
                }
                self.record(kind, *record, rank, seen);
                let lacks = match kind {
                    Kind::Step => record.loss.is_none() || record.throughput.is_none(),
                    Kind::Bare | Kind::Fallback => record.learning_rate.is_none(),
                    _ => false,
                };
                self.unfinished = lacks.then_some(Unfinished {
                    kind,
                    record: *record,
                    has_loss: record.loss.is_some(),
                    at: place,
                });
            }
        }
    }

    /// Whether a line without a position tells a learning rate that the record above it does not lack.
    fn is_rate_of_next(&self, part: &Record) -> bool {
        let lacks = |last: &Unfinished| last.record.learning_rate.is_none();
        part.learning_rate.is_some()
            && part.throughput.is_none()
            && part.grad_norm.is_none()
            && part.step.is_none()
            && !self.unfinished.as_ref().is_some_and(lacks)
    }

    /// Whether a line tells another epoch than the record above it.
    fn is_of_another_epoch(&self, later: &Record) -> bool {
        let last = self.unfinished.as_ref().and_then(|last| last.record.epoch);
        matches!((last, later.epoch), (Some(last), Some(later)) if last.text != later.text)
    }

    /// Adds what a line below the last record says of it. `false`: it has all that this line could tell.
    fn finish(&mut self, later: &Record, place: u64, seen: &mut dyn FnMut(&Seen)) -> bool {
        let near = |last: &Unfinished| place.saturating_sub(last.at) < BLOCK_BYTES;
        let Some(last) = self.unfinished.filter(near) else {
            return false;
        };
        // Texts that a model writes in its log may speak of hours that remain.
        let tells = later.loss.is_some()
            || later.throughput.is_some()
            || later.learning_rate.or(later.grad_norm).is_some();
        if !tells || later.step.is_some() || (later.loss.is_some() && last.has_loss) {
            return false;
        }
        let mut record = last.record;
        match last.kind {
            // A mean of an epoch, or what has no position, is told its learning rate at most.
            Kind::Bare | Kind::Fallback => {
                record.learning_rate = record.learning_rate.or(later.learning_rate);
            }
            _ => record.complete(later),
        }
        self.unfinished = Some(Unfinished {
            record,
            at: place,
            ..last
        });
        if record == last.record {
            return true;
        }
        self.tallies.finish(last.kind, &record);
        if !self.tallies.shows(last.kind) {
            return true;
        }
        seen(&Seen {
            record: Record {
                step: None,
                total_steps: None,
                ..record
            },
            kind: SeenKind::Record,
            line: self.lines_before + 1,
            repeated: true,
        });
        true
    }

    pub(super) fn row(
        &mut self,
        row: Record,
        place: u64,
        rank: Option<u32>,
        seen: &mut dyn FnMut(&Seen),
    ) {
        let repeats = |block: &Block| {
            let open = &block.record;
            (row.throughput.is_some() && open.throughput.is_some())
                || (row.learning_rate.is_some() && open.learning_rate.is_some())
                || (row.epoch.is_some() && open.epoch.is_some())
        };
        let fits = self.block.filter(|block| {
            block.table && place.saturating_sub(block.at) < BLOCK_BYTES && !repeats(block)
        });
        match fits {
            Some(mut block) => {
                // `total_timesteps` says more than `iterations`.
                if let (Some(old), Some(new)) = (block.record.step, row.step)
                    && new.value > old.value
                {
                    block.record.step = row.step;
                }
                block.record.complete(&row);
                block.at = place;
                self.block = Some(block);
            }
            None => {
                self.close_block(seen);
                self.open_block(row, place, rank, true);
            }
        }
    }

    fn open_block(&mut self, record: Record, at: u64, rank: Option<u32>, table: bool) {
        self.block = Some(Block {
            record,
            line: self.lines_before + 1,
            rank,
            at,
            table,
        });
    }

    pub(super) fn close_block(&mut self, seen: &mut dyn FnMut(&Seen)) {
        let Some(block) = self.block.take() else {
            return;
        };
        // Settings have positions and learning rates: `steps: 1000`, and `lr: 0.1` below it.
        let told = Record {
            learning_rate: None,
            ..block.record
        };
        if block.record.step.is_some() && told.has_metrics() {
            self.count(Kind::Step, block.record, block.rank, block.line, seen);
        }
    }
}
