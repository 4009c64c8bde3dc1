//! The whole log in one line: counts, positions and the last values, in memory that does not grow with the log.
//!
//! What is a record of training depends on what else there is: a lone loss counts where no step line exists, the engine's
//! timer lines where the trainer itself says nothing. So each kind is counted by itself, and the best is shown.

use std::collections::VecDeque;

use serde::Serialize;

use crate::{
    bar::{Bar, Role},
    failure::Class,
    number::{Printed, Text},
    read::Kind,
    record::{Record, Throughput},
    unit::Unit,
};

/// How many records back a copy by another rank, or a line that is repeated, is found.
const MEMORY: usize = 48;
/// Bars of different lengths that are told apart: training, evaluations, loaders.
const MAX_BARS: usize = 16;

/// What a log says about a training. Absent: not printed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Training records: copies by other ranks, redraws and repeated lines count once.
    pub step_records: u64,
    /// The same, each copy counted.
    pub raw_records: u64,
    /// Positions of the training's progress bar, where the metrics come without a step number.
    pub bar_updates: Option<u64>,
    /// First position of the training.
    pub first_step: Option<Text>,
    /// Last position of the training; may be lower than the first, where steps start again with each epoch.
    pub last_step: Option<Text>,
    /// Steps in all.
    pub total_steps: Option<Text>,
    /// Last epoch.
    pub last_epoch: Option<Text>,
    /// Last training loss.
    pub last_loss: Option<Text>,
    /// Last learning rate, the first of several.
    pub last_lr: Option<Text>,
    /// Last speed.
    pub last_throughput: Option<Text>,
    /// Unit of the last speed.
    pub throughput_unit: Option<Unit>,
    /// Last estimate of the time that is left.
    pub last_eta: Option<Text>,
    /// What ended the training, as far as the log tells.
    pub failure_class: Class,
}

/// Counts while a log is read.
#[derive(Debug, Default)]
pub struct Tallies {
    steps: Tally,
    bare: Tally,
    engine: Tally,
    fallback: Tally,
    bars: VecDeque<BarTally>,
}

impl Tallies {
    /// Whether records of this kind are the best so far.
    pub fn shows(&self, kind: Kind) -> bool {
        let trainer_spoke = self.steps.distinct + self.bare.distinct > 0;
        match kind {
            Kind::Step | Kind::Bare => true,
            Kind::Engine | Kind::Fallback => !trainer_spoke,
            _ => false,
        }
    }

    /// Counts a record. Returns whether it is a new one.
    pub fn record(&mut self, kind: Kind, record: &Record, rank: Option<u32>) -> bool {
        let new = match kind {
            Kind::Step => self.steps.add(record, rank),
            Kind::Bare => self.bare.add(record, rank),
            Kind::Engine => return self.engine.add(record, rank),
            Kind::Fallback => return self.fallback.add(record, rank),
            _ => return false,
        };
        // The bar that was drawn last is the one whose training is recorded.
        if let Some(bar) = self.bars.back_mut() {
            bar.records += 1;
        }
        new
    }

    /// Takes what lines below the last record said of it.
    pub fn finish(&mut self, kind: Kind, record: &Record) {
        match kind {
            Kind::Bare => self.bare.take(record),
            Kind::Fallback => self.fallback.take(record),
            _ => self.steps.take(record),
        }
    }

    /// Counts a drawing of a bar without metrics. Returns whether it moved.
    pub fn bar(&mut self, bar: &Bar<'_>, role: Role, epoch: Option<Printed>) -> bool {
        if role == Role::Other {
            return false;
        }
        let total = bar.total.map(|total| total.text);
        let known = self
            .bars
            .iter()
            .position(|known| known.total == total)
            .and_then(|at| self.bars.remove(at));
        let mut tally = known.unwrap_or_else(|| BarTally::new(total));
        let moved = tally.add(bar, role, epoch);
        if self.bars.len() == MAX_BARS {
            self.bars.pop_front();
        }
        self.bars.push_back(tally);
        moved
    }

    /// What is known so far.
    pub fn summary(&self, failure_class: Class) -> Summary {
        let tally = self.best();
        let bar = self
            .bars
            .iter()
            .max_by_key(|bar| (bar.records, bar.named, bar.moves))
            .filter(|_| tally.first_step.is_none());
        let text = |printed: Option<Printed>| printed.map(|printed| printed.text);
        let throughput = tally.throughput.or(bar.and_then(|bar| bar.rate));
        Summary {
            step_records: tally.distinct,
            raw_records: tally.raw,
            bar_updates: bar.map(|bar| bar.moves),
            first_step: text(tally.first_step.or(bar.map(|bar| bar.first))),
            last_step: text(tally.last_step.or(bar.map(|bar| bar.last))),
            total_steps: text(tally.total_steps).or(bar.and_then(|bar| bar.total)),
            last_epoch: text(tally.epoch.or(bar.and_then(|bar| bar.epoch))),
            last_loss: text(tally.loss),
            // SpeechBrain's bars have none, its lines about each epoch do.
            last_lr: text(tally.learning_rate.or(self.bare.own_rate())),
            last_throughput: throughput.map(|speed| speed.value.text),
            throughput_unit: throughput.map(|speed| speed.unit),
            last_eta: tally.remaining.or(bar.and_then(|bar| bar.remaining)),
            failure_class,
        }
    }

    /// Whether the training broke down and stayed so: see [`Record::is_broken`].
    pub fn is_broken(&self) -> bool {
        let tally = self.best();
        tally.broken >= 3 || (tally.broken > 0 && tally.broken == tally.distinct)
    }

    /// Whether a record stands further than the last: in a later epoch, or at a later step of as many.
    pub fn is_beyond(&self, record: &Record) -> bool {
        let later = |new: Option<Printed>, old: Option<Printed>| {
            new.zip(old).is_some_and(|(new, old)| new.value > old.value)
        };
        let last = self.best();
        let text = |total: Option<Printed>| total.map(|total| total.text);
        later(record.epoch, last.epoch)
            || later(record.step, last.last_step)
                && text(record.total_steps) == text(last.total_steps)
    }

    /// Steps of the best kind, and moves of bars: what grows as long as a training goes on.
    pub fn progress(&self) -> u64 {
        let records = [&self.steps, &self.bare, &self.engine]
            .iter()
            .map(|tally| tally.distinct)
            .sum::<u64>();
        records + self.bars.iter().map(|bar| bar.moves).sum::<u64>()
    }

    fn best(&self) -> &Tally {
        let order = [
            (&self.steps, self.steps.loss.is_some()),
            (&self.bare, self.bare.loss.is_some()),
            (&self.steps, self.steps.distinct > 0),
            (&self.bare, self.bare.distinct > 0),
            (&self.engine, self.engine.distinct > 0),
        ];
        order
            .iter()
            .find(|(_, usable)| *usable)
            .map_or(&self.fallback, |(tally, _)| tally)
    }
}

/// Counts and last values of one kind of record.
#[derive(Debug)]
struct Tally {
    distinct: u64,
    raw: u64,
    /// Keys and contents of the last records.
    recent: VecDeque<(u64, u64)>,
    /// The highest position so far.
    highest: f64,
    /// The rank that spoke first.
    rank: Option<u32>,
    /// Records in a row, up to the last, that were broken.
    broken: u64,
    first_step: Option<Printed>,
    last_step: Option<Printed>,
    total_steps: Option<Printed>,
    epoch: Option<Printed>,
    loss: Option<Printed>,
    learning_rate: Option<Printed>,
    /// New records that had a learning rate.
    rated: u64,
    throughput: Option<Throughput>,
    remaining: Option<Text>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            distinct: 0,
            raw: 0,
            recent: VecDeque::new(),
            highest: -1.0,
            rank: None,
            broken: 0,
            first_step: None,
            last_step: None,
            total_steps: None,
            epoch: None,
            loss: None,
            learning_rate: None,
            rated: 0,
            throughput: None,
            remaining: None,
        }
    }
}

impl Tally {
    /// The last learning rate, when every record has one: a single one may come from the settings above it.
    fn own_rate(&self) -> Option<Printed> {
        self.learning_rate.filter(|_| self.rated == self.distinct)
    }

    /// Returns whether the record is new.
    fn add(&mut self, record: &Record, rank: Option<u32>) -> bool {
        self.raw += 1;
        let new = self.is_new(record, rank);
        self.distinct += u64::from(new);
        self.rated += u64::from(new && record.learning_rate.is_some());
        if let Some(broken) = record.is_broken() {
            self.broken = if broken {
                self.broken + u64::from(new)
            } else {
                0
            };
        }
        self.take(record);
        new
    }

    /// Takes every value that the record has.
    fn take(&mut self, record: &Record) {
        fn take<T: Copy>(mine: &mut Option<T>, newer: Option<T>) {
            *mine = newer.or(*mine);
        }
        if self.first_step.is_none() {
            self.first_step = record.step;
        }
        take(&mut self.last_step, record.step);
        take(&mut self.total_steps, record.total_steps);
        take(&mut self.epoch, record.epoch);
        take(&mut self.loss, record.loss);
        take(&mut self.learning_rate, record.learning_rate);
        if record.speed_unknown {
            self.throughput = None;
        }
        take(&mut self.throughput, record.throughput);
        take(&mut self.remaining, record.remaining);
    }

    /// A record is a copy when its position was the last one, or another rank had it, or its values are the same too.
    fn is_new(&mut self, record: &Record, rank: Option<u32>) -> bool {
        let position = [record.step, record.epoch];
        let values = [
            record.loss,
            record.learning_rate,
            record.grad_norm,
            record.throughput.map(|speed| speed.value),
        ];
        let key = hash(&position);
        let content = hash(&values) ^ key.rotate_left(1);
        let key = if record.step.is_some() { key } else { content };
        // `Epoch 3 - batch loss: 0.0041` comes again by chance; what tells more does not.
        let says_little = record.step.is_none()
            && record.learning_rate.or(record.grad_norm).is_none()
            && record
                .epoch
                .is_none_or(|epoch| !epoch.text.bytes().contains(&b'.'));
        // Most records are simply the next ones.
        if let Some(step) = record.step
            && step.value > self.highest
        {
            self.highest = step.value;
            self.remember(key, content);
            self.rank.get_or_insert(rank.unwrap_or(0));
            return true;
        }
        let own_rank = *self.rank.get_or_insert(rank.unwrap_or(0));
        let by_other = rank.is_some_and(|rank| rank != own_rank);
        let known = self
            .recent
            .iter()
            .rev()
            .enumerate()
            .any(|(age, (old_key, old_content))| {
                let same = by_other || (*old_content == content && !says_little);
                *old_key == key && (age == 0 || same)
            });
        if !known {
            self.remember(key, content);
        }
        !known
    }

    fn remember(&mut self, key: u64, content: u64) {
        if self.recent.len() == MEMORY {
            self.recent.pop_front();
        }
        self.recent.push_back((key, content));
    }
}

/// Counts of bars of one length.
#[derive(Debug)]
struct BarTally {
    total: Option<Text>,
    first: Printed,
    last: Printed,
    moves: u64,
    /// Records that came while it was the last bar.
    records: u64,
    /// Its name says training.
    named: bool,
    rate: Option<Throughput>,
    remaining: Option<Text>,
    epoch: Option<Printed>,
}

impl BarTally {
    fn new(total: Option<Text>) -> Self {
        let nowhere = Printed {
            text: Text::new(b""),
            value: -1.0,
        };
        Self {
            total,
            first: nowhere,
            last: nowhere,
            moves: 0,
            records: 0,
            named: false,
            rate: None,
            remaining: None,
            epoch: None,
        }
    }

    fn add(&mut self, bar: &Bar<'_>, role: Role, epoch: Option<Printed>) -> bool {
        if self.moves == 0 {
            self.first = bar.position;
        }
        // The end of an epoch of one drawing each is a position of its own.
        let text = |epoch: Option<Printed>| epoch.map(|epoch| epoch.text);
        let next_epoch = self.moves > 0 && epoch.is_some() && text(epoch) != text(self.epoch);
        let moved = bar.position.value != self.last.value || next_epoch;
        self.moves += u64::from(moved);
        self.last = bar.position;
        self.named |= role == Role::Training;
        self.rate = bar
            .rate
            .map(|(value, unit)| Throughput { value, unit })
            .or(self.rate);
        self.remaining = bar.remaining.or(self.remaining);
        self.epoch = epoch.or(self.epoch);
        moved
    }
}

/// A hash of texts; which of them are absent counts too. Nobody gains by a collision: a line is merged that should not be.
fn hash(values: &[Option<Printed>]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |word: u64| {
        hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 29;
    };
    for value in values {
        for word in value.iter().flat_map(|value| value.text.bytes().chunks(8)) {
            let mut bytes = [0; 8];
            bytes[..word.len()].copy_from_slice(word);
            add(u64::from_le_bytes(bytes));
        }
        add(u64::MAX);
    }
    hash
}
