//! Follows one log from its first byte: blocks of lines to records, bars and evidence of failure.
//!
//! Most lines of most logs say nothing about the training. Those are never looked at: one automaton runs over whole
//! blocks, and only a line with one of its anchors is taken apart ([`gate`]).

mod blocks;
mod clock;
mod gate;
mod prefix;
mod words;

use memchr::{memchr_iter, memchr2, memrchr2};

use crate::{
    bar::{self, Role},
    failure::{self, Diagnosis, Watch},
    lines::{self, Lines, MAX_LINE_BYTES},
    number::Printed,
    progress::Progress,
    read::{self, Columns, Kind, Results, Row},
    record::Record,
    summary::{Summary, Tallies},
};
use blocks::{Block, Unfinished};
use clock::Clock;
use prefix::{has_number, rank};

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
    /// The number of a line that repeats another, as a heading before it says.
    recap: u64,
    /// A heading has said that an evaluation begins, and nothing since that the training goes on.
    evaluating: bool,
    /// A bar that may be the training's: its total and position. Others inside it are evaluations.
    training_bar: Option<(f64, f64)>,
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
                match gate::first(&block[at..]) {
                    Some(start) => at + start,
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
            self.training(&words::in_english(line), place, seen);
        }
        self.watch
            .line(line, self.lines_before + 1, self.tallies.progress());
    }

    fn training(&mut self, line: &[u8], place: u64, seen: &mut dyn FnMut(&Seen)) {
        self.evaluating = self.evaluating && !ends_evaluation(line);
        let mut rest = line;
        // A trainer prints to the line of its bar, and bars follow bars.
        for _ in 0..64 {
            if !has_number(rest) {
                self.announcement(rest);
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
        if self.recap == self.lines_before + 1 {
            return;
        }
        let Some(mut reading) = read::line(rest) else {
            return;
        };
        // Composer tells the epoch among the values below a position.
        let is_indented = matches!(rest.first(), Some(b' ' | b'\t'));
        if reading.kind == Kind::Epoch && is_indented && self.block.is_some() {
            reading.kind = Kind::Part;
        }
        self.evaluating =
            self.evaluating && reading.kind != Kind::Epoch && !self.trains(&reading.record);
        if self.evaluating && reading.record.loss.is_some() {
            reading.kind = Kind::Evaluation;
            reading.record = Record {
                eval_loss: reading.record.loss,
                ..Record::default()
            };
        }
        self.resolve(&mut reading, place, rank(line), seen);
    }

    /// What a line without numbers says of those below it.
    fn announcement(&mut self, line: &[u8]) {
        let line = line.trim_ascii();
        // LightGBM shows the values of its best iteration again.
        if line.ends_with(b"est iteration is:") {
            self.recap = self.lines_before + 2;
        }
        // Paddle's steps of an evaluation look like those of the training.
        self.evaluating |= line.starts_with(b"Eval begin");
    }

    /// Whether a record below the heading of an evaluation can only be the training's.
    fn trains(&self, record: &Record) -> bool {
        record.learning_rate.or(record.grad_norm).is_some() || self.tallies.is_beyond(record)
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

/// What Paddle and its kin say below an evaluation: `Eval samples: 1219`.
fn ends_evaluation(line: &[u8]) -> bool {
    let line = line.trim_ascii_start();
    [&b"Eval samples"[..], b"Eval end", b"Eval done"]
        .iter()
        .any(|end| line.starts_with(end))
}

#[cfg(test)]
mod tests;
