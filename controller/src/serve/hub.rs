//! What is known of all runs, for everybody who asks, and news of it for those who listen.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::broadcast, time::Instant};
use tracing::{info, warn};

use crate::{
    agent_client::SampleInfo,
    clock::Clock,
    error::CommandError,
    lookout::{
        facts::{Facts, News},
        gather::{Board, Extent},
        links::{Heard, Links},
    },
    store::{EventRecord, Origin, Store},
};

/// Runs that are told of, and how many of them are read from the record in one round: with 1,000 runs, each every ten seconds.
const EXTENT: Extent = Extent {
    runs: 2_000,
    each_round: 100,
};
/// For how long a run's log is read after somebody asked for it.
const ASKED: Duration = Duration::from_secs(60);
/// Readings and events that wait for a slow listener: two seconds of 1,000 boxes.
const WAITING: usize = 2_048;
/// News that are taken at once, before anything else has its turn.
const AT_ONCE: usize = 256;

/// A reading of the box of a run.
#[derive(Debug, Clone)]
pub struct ToldSample {
    /// Name of the run.
    pub run: String,
    /// Its attempt.
    pub attempt: u32,
    /// The reading.
    pub sample: SampleInfo,
}

/// Something that happened to a run.
#[derive(Debug, Clone)]
pub struct ToldEvent {
    /// Name of the run.
    pub run: String,
    /// Its attempt; 0 when it belongs to the run as a whole.
    pub attempt: u32,
    /// Place in the record; 0: it is not on record.
    pub id: i64,
    /// Who says so.
    pub origin: Origin,
    /// Number among the events of that attempt and origin.
    pub seq: u64,
    /// When, microseconds since the epoch.
    pub time_us: i64,
    /// Kind in dotted lower case.
    pub kind: String,
    /// Details, a JSON object.
    pub detail: serde_json::Value,
}

/// What is known, and who listens.
#[derive(Debug)]
pub struct Hub {
    clock: Clock,
    state: Mutex<State>,
    /// By run: when somebody asked for it last.
    asked: Mutex<HashMap<String, Instant>>,
    samples: broadcast::Sender<Arc<ToldSample>>,
    events: broadcast::Sender<Arc<ToldEvent>>,
}

#[derive(Debug)]
struct State {
    board: Board,
    told: HashMap<String, Told>,
    /// Why the record cannot be read now.
    problem: Option<String>,
}

/// What listeners were told of a run.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    /// Newest event of the record.
    id: i64,
    /// Newest event of the box of this attempt.
    attempt: u32,
    seq: u64,
}

impl Hub {
    /// Reads the record.
    pub fn open(store: Arc<Store>, clock: Clock) -> Result<Self, CommandError> {
        let board = Board::open(store, None, EXTENT)?;
        let mut state = State {
            board,
            told: HashMap::new(),
            problem: None,
        };
        // Nobody listens yet: what is on record by now is no news.
        state.news();
        Ok(Self {
            clock,
            state: Mutex::new(state),
            asked: Mutex::default(),
            samples: broadcast::channel(WAITING).0,
            events: broadcast::channel(WAITING).0,
        })
    }

    /// One round: reads the record, tells what is new in it, and looks at the boxes it names.
    pub fn round(&self, links: &mut Links<'_>) {
        let asked = self.asked();
        let shown = |run: &str| asked.contains(run);
        let mut state = self.lock();
        let problem = match state.board.refresh(&shown) {
            Ok(()) => None,
            Err(err) => Some(match err.causes() {
                [] => err.message().to_owned(),
                causes => format!("{}: {}", err.message(), causes.join(": ")),
            }),
        };
        match (&state.problem, &problem) {
            (None, Some(why)) => warn!(why, "the record cannot be read, will try again"),
            (Some(_), None) => info!("the record can be read again"),
            _ => {}
        }
        state.problem = problem;
        for event in state.news() {
            self.tell(event);
        }
        links.update(&mut state.board, &shown);
    }

    /// Takes news of a box, and as many of those that follow as are there.
    pub fn learn(&self, first: Heard, links: &mut Links<'_>) {
        let now_us = self.clock.now_us();
        let mut state = self.lock();
        let mut next = Some(first);
        for _ in 0..AT_ONCE {
            let Some((run, attempt, news)) = next else {
                return;
            };
            self.pass_on(&mut state, &run, attempt, &news);
            state.board.learn(&run, attempt, news, now_us);
            next = links.heard_more();
        }
        // The last one that was taken out is not to be lost.
        if let Some((run, attempt, news)) = next {
            self.pass_on(&mut state, &run, attempt, &news);
            state.board.learn(&run, attempt, news, now_us);
        }
    }

    /// Tells listeners what a box says.
    fn pass_on(&self, state: &mut State, run: &str, attempt: u32, news: &News) {
        match news {
            News::Sample(sample) if self.samples.receiver_count() > 0 => {
                let told = ToldSample {
                    run: run.to_owned(),
                    attempt,
                    sample: (**sample).clone(),
                };
                // It fails when the last listener has just left.
                let _nobody_listens = self.samples.send(Arc::new(told));
            }
            News::Event(event) => {
                let told = state.told.entry(run.to_owned()).or_default();
                if (told.attempt, told.seq) >= (attempt, event.seq) {
                    return;
                }
                (told.attempt, told.seq) = (attempt, event.seq);
                self.tell(ToldEvent {
                    run: run.to_owned(),
                    attempt,
                    id: 0,
                    origin: Origin::Agent,
                    seq: event.seq,
                    time_us: i64::try_from(event.time_us).unwrap_or(i64::MAX),
                    kind: event.kind.clone(),
                    detail: event.detail.clone(),
                });
            }
            _ => {}
        }
    }

    fn tell(&self, event: ToldEvent) {
        let _nobody_listens = self.events.send(Arc::new(event));
    }

    /// Somebody looks at a run: its log is read for a while.
    pub fn ask_for(&self, run: &str) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.insert(run.to_owned(), Instant::now());
    }

    fn asked(&self) -> HashSet<String> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|_, at| at.elapsed() < ASKED);
        asked.keys().cloned().collect()
    }

    /// Looks at all runs, and at why the record cannot be read.
    pub fn look<T>(&self, look: impl FnOnce(&Board, Option<&str>, i64) -> T) -> T {
        let state = self.lock();
        look(&state.board, state.problem.as_deref(), self.clock.now_us())
    }

    /// The newest reading of each box, and all that follow.
    pub fn samples(&self) -> (Vec<ToldSample>, broadcast::Receiver<Arc<ToldSample>>) {
        let state = self.lock();
        let newest = state.board.runs.iter().filter_map(|facts| {
            Some(ToldSample {
                run: facts.recorded.name.clone(),
                attempt: facts.recorded.attempt,
                sample: facts.live.sample.clone()?,
            })
        });
        (newest.collect(), self.samples.subscribe())
    }

    /// What happened so far, by `wanted` runs and after a place in the record, and all that follows.
    pub fn events(
        &self,
        wanted: impl Fn(&str) -> bool,
        after_id: i64,
    ) -> (Vec<ToldEvent>, broadcast::Receiver<Arc<ToldEvent>>) {
        let state = self.lock();
        let mut all: Vec<ToldEvent> = Vec::new();
        for facts in &state.board.runs {
            if !wanted(&facts.recorded.name) {
                continue;
            }
            // Only the newest are held here; where the record cannot be read, those.
            match state.board.recorded(facts, after_id) {
                Ok(events) => all.extend(events.iter().map(|event| told_event(facts, event))),
                Err(err) => {
                    warn!(%err, "events cannot be read from the record, the newest are told");
                    all.extend(recorded(facts, after_id));
                }
            }
            all.extend(not_on_record(facts));
        }
        all.sort_by_key(|event| (event.id == 0, event.id, event.time_us));
        (all, self.events.subscribe())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it was held left plain values behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What came to the record and was not told.
    fn news(&mut self) -> Vec<ToldEvent> {
        let mut news = Vec::new();
        for facts in &self.board.runs {
            let newest = facts.events.last().map_or(0, |event| event.id);
            let told = match self.told.get_mut(&facts.recorded.name) {
                Some(told) => told,
                None => self.told.entry(facts.recorded.name.clone()).or_default(),
            };
            if newest <= told.id {
                continue;
            }
            let before = std::mem::replace(&mut told.id, newest);
            for event in recorded(facts, before) {
                // The box has told it already.
                let by_box = event.origin == Origin::Agent;
                if by_box && (told.attempt, told.seq) >= (event.attempt, event.seq) {
                    continue;
                }
                if by_box {
                    (told.attempt, told.seq) = (event.attempt, event.seq);
                }
                news.push(event);
            }
        }
        news
    }
}

/// What of a run is on record after a place and held here.
fn recorded(facts: &Facts, after_id: i64) -> impl Iterator<Item = ToldEvent> {
    let first = facts.events.partition_point(|event| event.id <= after_id);
    facts.events[first..]
        .iter()
        .map(|event| told_event(facts, event))
}

fn told_event(facts: &Facts, event: &EventRecord) -> ToldEvent {
    ToldEvent {
        run: facts.recorded.name.clone(),
        attempt: event.attempt,
        id: event.id,
        origin: event.origin,
        seq: event.seq,
        time_us: event.time_us,
        kind: event.kind.clone(),
        detail: event.detail.clone(),
    }
}

/// What the box of a run told and is not on record.
fn not_on_record(facts: &Facts) -> impl Iterator<Item = ToldEvent> {
    facts.live.told.iter().map(|event| ToldEvent {
        run: facts.recorded.name.clone(),
        attempt: event.attempt,
        id: 0,
        origin: Origin::Agent,
        seq: event.seq,
        time_us: i64::try_from(event.time_us).unwrap_or(i64::MAX),
        kind: event.kind.clone(),
        detail: event.detail.clone(),
    })
}
