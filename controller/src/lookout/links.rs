//! The boxes that are looked at at the same time, and everything they say in one place.

use std::{collections::HashMap, path::PathBuf, rc::Rc};

use futures::{FutureExt, StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, watch},
    time::{self, Duration},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    error::CommandError,
    lookout::{
        copies::Copies,
        facts::{Facts, News, Reach},
        gather::Board,
        live::{self, Listener, Manner, Reading, Target, Way},
    },
};

/// News that wait to be heard.
const NEWS: usize = 256;
/// How long links are waited for at the end.
const GOODBYE: Duration = Duration::from_secs(2);

/// News of a run and its attempt.
pub type Heard = (String, u32, News);

/// Reaches the agent of a run, by its name.
pub type Dialler<'a> = Rc<dyn Fn(String) -> LocalBoxFuture<'a, Result<Way, CommandError>> + 'a>;

/// Of which runs the logs are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logs {
    /// Of all that are looked at.
    All,
    /// Of those that somebody looks at, as long as he does.
    Shown,
}

/// What there is to look with.
#[derive(Clone)]
pub struct Looking<'a> {
    /// Spotter's home, where the copies are.
    pub home: PathBuf,
    /// The date.
    pub clock: Clock,
    /// How boxes are reached.
    pub dial: Dialler<'a>,
    /// How they are looked at.
    pub manner: Manner,
    /// Whose logs are read.
    pub logs: Logs,
    /// Boxes at the same time at most; of others the record is shown, until somebody looks at them.
    pub most: usize,
}

/// Everything that is looked at.
pub struct Links<'a> {
    looking: Looking<'a>,
    tell: mpsc::Sender<Heard>,
    news: mpsc::Receiver<Heard>,
    /// By run.
    links: HashMap<String, Linked>,
    looks: FuturesUnordered<LocalBoxFuture<'a, ()>>,
}

/// What of a run is looked at, and what ends that.
struct Linked {
    looked: Looked,
    end: CancellationToken,
    /// Whether its log is wanted; `None`: it always is.
    log: Option<watch::Sender<bool>>,
}

/// What of a run was begun to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Looked {
    attempt: u32,
    /// Its box, in this life of its training.
    box_runs: bool,
    started_us: i64,
}

impl<'a> Links<'a> {
    /// None yet.
    pub fn new(looking: Looking<'a>) -> Self {
        let (tell, news) = mpsc::channel(NEWS);
        Self {
            looking,
            tell,
            news,
            links: HashMap::new(),
            looks: FuturesUnordered::new(),
        }
    }

    /// Reads logs and opens links where that is due, and ends those that are of the past. `shown`: whether somebody looks at a run.
    pub fn update(&mut self, board: &mut Board, shown: &dyn Fn(&str) -> bool) {
        let live = self.links.values().filter(|link| link.looked.box_runs);
        let mut live = live.count();
        let mut left = Vec::new();
        for facts in &board.runs {
            let recorded = &facts.recorded;
            let is_shown = shown(&recorded.name);
            let looked = Looked {
                attempt: recorded.attempt,
                box_runs: recorded.box_runs,
                started_us: recorded.started_us,
            };
            match self.links.get_mut(&recorded.name) {
                Some(link) if link.follows(looked, facts) => {
                    link.looked = looked;
                    link.want_log(is_shown);
                    continue;
                }
                Some(link) if !is_shown && !recorded.box_runs => {
                    link.end.cancel();
                    self.links.remove(&recorded.name);
                    left.push(recorded.name.clone());
                    continue;
                }
                None if !is_shown && !recorded.box_runs => continue,
                Some(link) => link.end.cancel(),
                None if looked.box_runs && !is_shown && live >= self.looking.most => continue,
                None => {}
            }
            live += usize::from(looked.box_runs);
            if !looked.box_runs {
                left.push(recorded.name.clone());
            }
            let link = self.open(facts, looked, is_shown);
            self.links.insert(recorded.name.clone(), link);
        }
        for run in left {
            board.left(&run);
        }
    }

    fn open(&self, facts: &Facts, looked: Looked, is_shown: bool) -> Linked {
        let recorded = &facts.recorded;
        let (log, wanted) = match self.looking.logs {
            // Without a sender it stays as it is.
            Logs::All => (None, watch::channel(true).1),
            Logs::Shown => {
                let (log, wanted) = watch::channel(is_shown);
                (Some(log), wanted)
            }
        };
        let target = Target {
            run: recorded.name.clone(),
            attempt: recorded.attempt,
            last_event: recorded.last_event,
        };
        let progress = facts.log.progress().map(str::to_owned);
        let reading = Reading::new(Copies::new(&self.looking.home, progress), wanted);
        let listener = Listener::new(&recorded.name, recorded.attempt, self.tell.clone());
        let end = CancellationToken::new();
        let looking = self.looking.clone();
        let look = look(
            looking,
            target,
            reading,
            looked.box_runs,
            listener,
            end.clone(),
        );
        self.looks.push(look.boxed_local());
        Linked { looked, end, log }
    }

    /// The next news; `None`: nobody brings any, as nothing is looked at.
    pub async fn hear(&mut self) -> Option<Heard> {
        loop {
            if self.looks.is_empty() {
                return self.news.try_recv().ok();
            }
            tokio::select! {
                Some(news) = self.news.recv() => return Some(news),
                Some(()) = self.looks.next() => {}
            }
        }
    }

    /// More news, if there are any.
    pub fn heard_more(&mut self) -> Option<Heard> {
        self.news.try_recv().ok()
    }

    /// Ends every link in order, for a moment at most.
    pub async fn close(self) {
        for link in self.links.values() {
            link.end.cancel();
        }
        drop(self.news);
        let ends = self.looks.collect::<()>();
        // ssh ends with this program in any case.
        let _took_longer = time::timeout(GOODBYE, ends).await;
    }
}

impl Linked {
    /// Whether it is the link to look at that with.
    fn follows(&self, looked: Looked, facts: &Facts) -> bool {
        let known = self.looked;
        // A training that was just started is heard of on the same link.
        let goes_on = known.attempt == looked.attempt
            && known.box_runs
            && looked.box_runs
            && facts.reach != Reach::LetGo;
        goes_on || known == looked
    }

    fn want_log(&self, wanted: bool) {
        if let Some(log) = &self.log {
            log.send_if_modified(|known| std::mem::replace(known, wanted) != wanted);
        }
    }
}

/// Reads the copies of a run's logs when they are wanted, and looks at its box as long as there is one.
async fn look(
    looking: Looking<'_>,
    target: Target,
    mut reading: Reading,
    box_runs: bool,
    listener: Listener,
    end: CancellationToken,
) {
    reading.turn(&target, &listener).await;
    if box_runs {
        let run = target.run.clone();
        let dial = || (looking.dial)(run.clone());
        let (manner, clock) = (looking.manner, &looking.clock);
        live::look(&target, &mut reading, manner, clock, &listener, &end, dial).await;
    }
    // What its log says may still be wanted, or not any more.
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            is_open = reading.changed() => match is_open {
                true => reading.turn(&target, &listener).await,
                false => return,
            },
        }
    }
}
