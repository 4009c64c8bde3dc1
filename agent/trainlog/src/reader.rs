//! Follows one log from its first byte: blocks of lines to records, bars and evidence of failure.
//!
//! Most lines of most logs say nothing about the training. Those are never looked at: one automaton runs over whole
//! blocks, and only a line with one of its anchors is taken apart ([`gate`]).

mod clock;
mod gate;
mod prefix;

use aho_corasick::{Input, automaton::Automaton};
use memchr::{memchr_iter, memchr2, memrchr2};

use crate::{
    bar::{self, Role},
    failure::{self, Diagnosis, Watch},
    lines::{self, Lines, MAX_LINE_BYTES},
    number::Printed,
    progress::Progress,
    read::{self, Columns, Kind, Reading, Results, Row},
    record::Record,
    summary::{Summary, Tallies},
};
use clock::Clock;
use gate::GATE;
use prefix::{has_number, rank};

/// A block of lines under one position stays open for this many bytes.
const BLOCK_BYTES: u64 = 16 << 10;

/// What a line brought.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen {
    /// Its values.
    pub record: Record,
    /// What it is.
    pub kind: SeenKind,
    /// The line, counted from 1; redraws do not count.
    pub line: u64,
    /// It repeats a record that was there before: a redraw, or the copy of another rank.
    pub repeated: bool,
}

/// What kind of thing was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeenKind {
    /// A record of training.
    Record,
    /// A progress bar without metrics.
    Bar,
    /// An evaluation.
    Evaluation,
}

/// Reads a log as it comes, in pieces of any size.
#[derive(Debug, Default)]
pub struct Reader {
    lines: Lines,
    state: State,
}

#[derive(Debug, Default)]
struct State {
    /// The user's own expression.
    progress: Option<Progress>,
    tallies: Tallies,
    watch: Watch,
    /// Epoch of the last heading, and how many there are.
    epoch: Option<Printed>,
    total_epochs: Option<Printed>,
    /// Records, bars that moved, headings and evaluations so far.
    moves: u64,
    /// Position and total of the bar that was drawn last.
    drawn: Option<(f64, Option<f64>)>,
    /// The evaluation that was printed last.
    evaluated: Option<Printed>,
    /// The block of lines that is open.
    block: Option<Block>,
    /// Whether a plain `time` is that of all steps so far.
    clock: Clock,
    /// A record that lacks its loss or its speed: lines below it may tell them.
    unfinished: Option<Unfinished>,
    /// A learning rate that was told before its record, and where, in bytes from the start of the log.
    rate: Option<(Printed, u64)>,
    /// The table whose rows are read.
    columns: Option<Columns>,
    /// The result of RLlib that is read.
    results: Results,
    /// Lines before the block of bytes that is read.
    lines_before: u64,
    bytes_before: u64,
    /// A bar that may be the training's: its total and position. Others inside it are evaluations.
    training_bar: Option<(f64, f64)>,
}

/// A record that comes in several lines: a header with the position, or the rows of a table.
#[derive(Debug, Clone, Copy)]
struct Block {
    record: Record,
    line: u64,
    rank: Option<u32>,
    /// Where its last line was, in bytes from the start of the log.
    at: u64,
    table: bool,
}

/// The last record, as far as it is known.
#[derive(Debug, Clone, Copy)]
struct Unfinished {
    kind: Kind,
    record: Record,
    /// It came with its loss: one further below is another's.
    has_loss: bool,
    /// Where its last line was, in bytes from the start of the log.
    at: u64,
}

impl Reader {
    /// A reader that takes the lines of this expression as records, and no others.
    pub fn with(progress: Option<Progress>) -> Self {
        Self {
            lines: Lines::default(),
            state: State {
                progress,
                ..State::default()
            },
        }
    }

    /// Reads the next bytes and calls `seen` for each record, bar and evaluation that they complete.
    pub fn feed(&mut self, bytes: &[u8], seen: &mut dyn FnMut(&Seen)) {
        let state = &mut self.state;
        self.lines
            .feed(bytes, &mut |block| state.block(block, seen));
    }

    /// Reads the last line when the log has ended without a line end, and closes what is open.
    pub fn end(&mut self, seen: &mut dyn FnMut(&Seen)) {
        let state = &mut self.state;
        self.lines.end(&mut |block| state.block(block, seen));
        state.close_block(seen);
    }

    /// The bar that is drawn and waits for its next redraw, which may be minutes away.
    pub fn waiting(&self) -> Option<Record> {
        let line = self.lines.pending();
        if !line.ends_with(b"]") {
            return None;
        }
        let mut found = None;
        lines::clean(line, &mut |line| {
            if let Some(bar) = bar::parse(line).filter(|bar| bar.rest.is_empty()) {
                let mut record = read::around(&bar);
                if self.state.is_training(&bar, bar.role(), record.as_ref()) {
                    record
                        .iter_mut()
                        .for_each(|record| self.state.under_heading(record));
                    found = record;
                }
            }
        });
        found
    }

    /// Counts whatever shows that the program goes on: new records, moves of bars, epochs and evaluations; not lines that repeat
    /// what was there.
    pub fn moves(&self) -> u64 {
        self.state.moves
    }

    /// What the log says so far.
    pub fn summary(&self) -> Summary {
        let class = self
            .diagnosis()
            .map_or(failure::Class::None, |found| found.class);
        self.state.tallies.summary(class)
    }

    /// What went wrong so far, as far as the log tells.
    pub fn diagnosis(&self) -> Option<Diagnosis> {
        let broken = self.state.tallies.is_broken();
        self.state
            .watch
            .verdict(self.state.tallies.progress(), broken)
    }
}

impl State {
    fn block(&mut self, block: &[u8], seen: &mut dyn FnMut(&Seen)) {
        let mut at = 0;
        let mut counted = 0;
        while at < block.len() {
            // Rows of a table have no words.
            let hit = if self.progress.is_some() || self.columns.is_some() {
                at
            } else {
                let found = GATE.try_find(&Input::new(&block[at..]));
                match found.expect(failure::ANYWHERE) {
                    Some(found) => at + found.start(),
                    None => break,
                }
            };
            let start =
                memrchr2(b'\n', b'\r', &block[at..hit]).map_or(at, |before| at + before + 1);
            let end = memchr2(b'\n', b'\r', &block[hit..]).map_or(block.len(), |end| hit + end);
            self.lines_before += memchr_iter(b'\n', &block[counted..start]).count() as u64;
            counted = start;
            let raw = &block[start..end.min(start + MAX_LINE_BYTES)];
            let place = self.bytes_before + start as u64;
            lines::clean(raw, &mut |line| self.line(line, place, seen));
            // The end of the line stays, so that the next line is found by it; an empty line takes one byte.
            at = if end == at { end + 1 } else { end };
        }
        self.lines_before += memchr_iter(b'\n', &block[counted..]).count() as u64;
        self.bytes_before += block.len() as u64;
    }

    fn line(&mut self, line: &[u8], place: u64, seen: &mut dyn FnMut(&Seen)) {
        if let Some(progress) = &self.progress {
            if let Some(record) = progress.read(line) {
                self.record(Kind::Step, record, rank(line), seen);
            }
        } else {
            self.training(line, place, seen);
        }
        self.watch
            .line(line, self.lines_before + 1, self.tallies.progress());
    }

    fn training(&mut self, line: &[u8], place: u64, seen: &mut dyn FnMut(&Seen)) {
        let mut rest = line;
        // A trainer prints to the line of its bar, and bars follow bars.
        for _ in 0..64 {
            if !has_number(rest) {
                let is_rule = !rest.iter().any(u8::is_ascii_alphabetic);
                self.columns = self
                    .columns
                    .take()
                    .filter(|_| is_rule)
                    .or_else(|| Columns::heading(rest));
                return;
            }
            let Some(bar) = bar::parse(rest) else { break };
            self.bar(&bar, line, seen);
            rest = bar.rest;
        }
        if let Some(columns) = &self.columns {
            match columns.row(rest) {
                Some(mut reading) => {
                    return self.resolve(&mut reading, place, rank(line), seen);
                }
                None => self.columns = None,
            }
        }
        match self.results.take(rest, place) {
            Row::Other => {}
            Row::Part => return,
            Row::Complete(record) => return self.record(Kind::Step, *record, rank(line), seen),
        }
        if let Some(row) = read::row(rest) {
            return self.row(row, place, rank(line), seen);
        }
        let Some(mut reading) = read::line(rest) else {
            return;
        };
        self.resolve(&mut reading, place, rank(line), seen);
    }

    /// Gives a reading the epoch and the position that lines before it said.
    fn resolve(
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
            (Kind::Part | Kind::Fallback, _) if self.finish(&reading.record, place, seen) => {}
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
                    Kind::Fallback => record.learning_rate.is_none(),
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
            // A mean of an epoch is told its learning rate at most.
            Kind::Fallback => record.learning_rate = record.learning_rate.or(later.learning_rate),
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

    fn evaluation(&mut self, record: Record, seen: &mut dyn FnMut(&Seen)) {
        let text = |loss: Option<Printed>| loss.map(|loss| loss.text);
        self.moves += u64::from(text(self.evaluated) != text(record.eval_loss));
        self.evaluated = record.eval_loss;
        seen(&Seen {
            record,
            kind: SeenKind::Evaluation,
            line: self.lines_before + 1,
            repeated: false,
        });
    }

    /// Gives a record the epoch that a heading before it said.
    fn under_heading(&self, record: &mut Record) {
        if record.epoch.is_none() {
            record.epoch = self.epoch;
            record.total_epochs = record.total_epochs.or(self.total_epochs);
        }
    }

    fn row(&mut self, row: Record, place: u64, rank: Option<u32>, seen: &mut dyn FnMut(&Seen)) {
        let repeats = |block: &Block| {
            let open = &block.record;
            (row.throughput.is_some() && open.throughput.is_some())
                || (row.learning_rate.is_some() && open.learning_rate.is_some())
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

    fn close_block(&mut self, seen: &mut dyn FnMut(&Seen)) {
        let Some(block) = self.block.take() else {
            return;
        };
        if block.record.step.is_some() && block.record.has_metrics() {
            self.count(Kind::Step, block.record, block.rank, block.line, seen);
        }
    }

    fn record(
        &mut self,
        kind: Kind,
        record: Record,
        rank: Option<u32>,
        seen: &mut dyn FnMut(&Seen),
    ) {
        self.count(kind, record, rank, self.lines_before + 1, seen);
    }

    fn count(
        &mut self,
        kind: Kind,
        mut record: Record,
        rank: Option<u32>,
        line: u64,
        seen: &mut dyn FnMut(&Seen),
    ) {
        self.under_heading(&mut record);
        if record.plain_time.is_some_and(|time| self.clock.runs(time)) {
            record.forget_time();
        }
        let shown = self.tallies.shows(kind);
        let new = self.tallies.record(kind, &record, rank);
        self.moves += u64::from(new);
        if shown || record.eval_loss.is_some() {
            seen(&Seen {
                record,
                kind: if shown {
                    SeenKind::Record
                } else {
                    SeenKind::Evaluation
                },
                line,
                repeated: !new,
            });
        }
    }

    fn bar(&mut self, bar: &bar::Bar<'_>, line: &[u8], seen: &mut dyn FnMut(&Seen)) {
        let role = bar.role();
        let record = read::around(bar);
        let epoch = record.and_then(|record| record.epoch).or(self.epoch);
        let training = self.is_training(bar, role, record.as_ref());
        let Some(mut record) = record else { return };
        let drawn = (bar.position.value, bar.total.map(|total| total.value));
        self.moves += u64::from(self.drawn.replace(drawn) != Some(drawn));
        if let (true, Some(eval_loss)) = (bar.is_evaluation(), record.eval_loss.or(record.loss)) {
            let record = Record {
                eval_loss: Some(eval_loss),
                ..Record::default()
            };
            return self.evaluation(record, seen);
        }
        if record.loss.is_some() && training {
            self.training_bar = bar.total.map(|total| (total.value, bar.position.value));
            self.close_block(seen);
            return self.record(Kind::Step, record, rank(line), seen);
        }
        if role == Role::Other {
            return;
        }
        let moved = self.tallies.bar(bar, role, epoch);
        if training {
            self.training_bar = bar.total.map(|total| (total.value, bar.position.value));
            self.under_heading(&mut record);
            seen(&Seen {
                record,
                kind: SeenKind::Bar,
                line: self.lines_before + 1,
                repeated: !moved,
            });
        }
    }

    /// Whether a bar is the training's. One of another length inside one that is not finished is not.
    fn is_training(&self, bar: &bar::Bar<'_>, role: Role, record: Option<&Record>) -> bool {
        let has_loss = record.is_some_and(|record| record.loss.is_some());
        match role {
            Role::Training => true,
            // A name that says nothing, with a loss behind the bar: `Progress: 5%|...| 1/20 [..., loss=2]`.
            Role::Other => has_loss && !bar.is_other_work(),
            Role::Unnamed => {
                let total = bar.total.map(|total| total.value);
                let nested = self
                    .training_bar
                    .is_some_and(|(length, position)| Some(length) != total && position < length);
                has_loss || !nested
            }
        }
    }
}

#[cfg(test)]
mod tests;
