//! `top`: a screen that shows one run, or all. Gathers, listens and draws; what it looks at goes on whatever happens here.

use std::{collections::HashMap, time::Duration};

use crossterm::event::Event;
use futures::{FutureExt, StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use ratatui::{buffer::Buffer, layout::Rect};
use tokio::{sync::mpsc, time};
use tokio_util::sync::CancellationToken;

use crate::{
    agent_client::AgentClient,
    bootstrap,
    commands::Deps,
    error::CommandError,
    top::{
        draw::{self, Scene},
        facts::{Facts, News, Reach},
        gather::{self, Board},
        keys::{Act, Pane, Screen, Seen},
        live::{self, Listener, Target},
        model::{self, ListRow},
    },
    tunnel::{Patience, Tunnel},
    ui::{Ui, terminal, terminal::TerminalScreen},
};

/// How long one try to reach a box takes.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// Boxes that are looked at at the same time; of others the record is shown, until they are chosen.
const MAX_LINKS: usize = 16;
/// Between two looks into the store, and between two frames while nothing happens.
const ROUND: Duration = Duration::from_secs(1);
/// Between two frames while much happens.
const FRAME: Duration = Duration::from_millis(250);
/// News that wait to be shown.
const NEWS: usize = 256;
/// How long links are waited for at the end.
const GOODBYE: Duration = Duration::from_secs(2);
/// How long `--once` waits for a box.
const ONCE_LIMIT: Duration = Duration::from_secs(20);
/// After the first reading, until what else was asked for is there as well.
const ONCE_SETTLE: Duration = Duration::from_millis(1500);
/// Columns and rows of one frame where there is no terminal.
const PAGE: (u16, u16) = (120, 40);

/// Watch a run, or all, on a screen: GPUs, curves, progress, checkpoints, money, events, log
///
/// Only looks: leaving it changes nothing. Runs that have ended, or whose box does not answer, are shown from what is on record here, and
/// the screen says how old that is. `?` shows the keys.
#[derive(Debug, clap::Args)]
pub struct TopArgs {
    /// The run [default: all]
    run: Option<String>,
    /// Print one frame as plain text, and end
    #[arg(long)]
    once: bool,
}

/// Runs the verb.
pub async fn top(
    ui: &mut Ui,
    deps: &Deps,
    args: &TopArgs,
    stop: CancellationToken,
) -> Result<(), CommandError> {
    let name = args.run.as_deref().unwrap_or_default();
    if ui.is_json() {
        let hint = format!("spotter status {name} --json").replace("  ", " ");
        return Err(
            CommandError::usage("`top` is a screen, and has no JSON").hint(match name {
                "" => "print the runs with `spotter ps --json`".to_owned(),
                _ => format!("print the run with `{hint}`"),
            }),
        );
    }
    if !args.once && !terminal::is_there() {
        let err = CommandError::usage("`top` draws on a terminal, and here is none");
        return Err(match name {
            "" => err
                .hint("print the runs with `spotter ps --json`")
                .hint("print one frame with `spotter top --once`"),
            _ => err
                .hint(format!("print the run with `spotter status {name} --json`"))
                .hint(format!("print one frame with `spotter top {name} --once`")),
        });
    }
    // A name that is wrong, and a store that is empty, have errors of their own.
    if let Some(name) = &args.run {
        deps.load_run(Some(name))?;
    }
    let board = Board::open(deps.store()?, args.run.clone())?;
    let first = board.runs.first();
    let first = first.map_or_else(String::new, |facts| facts.recorded.name.clone());
    let going = board.runs.iter().filter(|facts| !facts.recorded.is_over);
    let list = board.runs.len() > 1 && going.count() != 1;
    let (tell, news) = mpsc::channel(NEWS);
    let mut watch = Watch {
        deps,
        board,
        screen: Screen::new(&first, list),
        colour: deps.config.ui_options().colours(),
        page: 1,
        tell,
        news,
        links: HashMap::new(),
        looks: FuturesUnordered::new(),
    };
    let shown = match args.once {
        true => watch.once(ui, &stop).await,
        false => watch.interact(&stop).await,
    };
    watch.close().await;
    shown
}

/// What is gathered, and what is shown of it.
struct Watch<'a> {
    deps: &'a Deps,
    board: Board,
    screen: Screen,
    colour: bool,
    /// Lines of the pane that fit.
    page: usize,
    tell: mpsc::Sender<(String, u32, News)>,
    news: mpsc::Receiver<(String, u32, News)>,
    /// By run: what is looked at, and what ends that.
    links: HashMap<String, (Looked, CancellationToken)>,
    looks: FuturesUnordered<LocalBoxFuture<'a, ()>>,
}

/// What of a run was begun to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Looked {
    attempt: u32,
    /// Its box, in this life of its training.
    box_runs: bool,
    started_us: i64,
}

impl<'a> Watch<'a> {
    /// Reads logs and opens links where that is due, and ends those that are of the past.
    fn link(&mut self) {
        let live = self.links.values().filter(|(looked, _)| looked.box_runs);
        let mut live = live.count();
        for facts in &mut self.board.runs {
            let recorded = &facts.recorded;
            let is_shown = recorded.name == self.screen.run;
            if !is_shown && !recorded.box_runs {
                continue;
            }
            let looked = Looked {
                attempt: recorded.attempt,
                box_runs: recorded.box_runs,
                started_us: recorded.started_us,
            };
            match self.links.get_mut(&recorded.name) {
                Some((known, _)) if *known == looked => continue,
                // A training that was just started is heard of on the same link.
                Some((known, _))
                    if known.attempt == looked.attempt
                        && known.box_runs
                        && looked.box_runs
                        && facts.reach != Reach::LetGo =>
                {
                    *known = looked;
                    continue;
                }
                Some((_, end)) => end.cancel(),
                None if looked.box_runs && !is_shown && live >= MAX_LINKS => {
                    continue;
                }
                None => {}
            }
            live += usize::from(looked.box_runs);
            if !looked.box_runs {
                facts.reach = Reach::Record;
            }
            let end = CancellationToken::new();
            self.links
                .insert(recorded.name.clone(), (looked, end.clone()));
            let listener = Listener::new(&recorded.name, recorded.attempt, self.tell.clone());
            let look = look(self.deps, wanted(facts), looked.box_runs, listener, end);
            self.looks.push(look.boxed_local());
        }
    }

    /// Takes what has come.
    fn learn(&mut self, (run, attempt, news): (String, u32, News)) {
        let now_us = self.deps.clock.now_us();
        if let Some(facts) = self.board.find(&run)
            && facts.recorded.attempt == attempt
            // The last words of a link that was just ended are of the past.
            && (facts.recorded.box_runs || !matches!(news, News::Reach(_)))
        {
            facts.learn(news, now_us);
        }
    }

    async fn interact(&mut self, stop: &CancellationToken) -> Result<(), CommandError> {
        let gone =
            |err: std::io::Error| CommandError::new("the terminal cannot be drawn on").cause(err);
        self.link();
        let mut terminal = TerminalScreen::open().map_err(gone)?;
        let mut rounds = time::interval(ROUND);
        rounds.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut drawn = time::Instant::now() - FRAME;
        let mut is_due = true;
        loop {
            if is_due && drawn.elapsed() >= FRAME {
                terminal
                    .draw(|buffer, area| self.draw(buffer, area))
                    .map_err(gone)?;
                (drawn, is_due) = (time::Instant::now(), false);
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                event = terminal.event() => match event {
                    None => return Ok(()),
                    Some(Event::Key(key)) => match self.key(key) {
                        Act::Leave => return Ok(()),
                        Act::Copy => {
                            self.copy(&mut terminal).map_err(gone)?;
                            (drawn, is_due) = (drawn - FRAME, true);
                        }
                        // A person waits for it.
                        Act::Draw => (drawn, is_due) = (drawn - FRAME, true),
                        Act::Nothing => {}
                    },
                    Some(_) => is_due = true,
                },
                _ = rounds.tick() => {
                    self.board.refresh(Some(&self.screen.run))?;
                    self.link();
                    is_due = true;
                }
                () = time::sleep_until(drawn + FRAME), if is_due => {}
                Some(news) = self.news.recv() => {
                    self.learn(news);
                    is_due = true;
                }
                Some(()) = self.looks.next(), if !self.looks.is_empty() => {}
            }
        }
    }

    /// One frame as text, when the box has said something or a while has passed.
    async fn once(&mut self, ui: &mut Ui, stop: &CancellationToken) -> Result<(), CommandError> {
        self.link();
        let limit = time::Instant::now() + ONCE_LIMIT;
        let mut until = limit;
        // Until nobody brings more.
        while !(self.looks.is_empty() && self.news.is_empty()) {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = time::sleep_until(until) => break,
                Some(news) = self.news.recv() => {
                    let failed = matches!(news, (_, _, News::Reach(Reach::Lost { .. })));
                    self.learn(news);
                    if until == limit && (failed || self.has_come()) {
                        until = limit.min(time::Instant::now() + ONCE_SETTLE);
                    }
                }
                Some(()) = self.looks.next(), if !self.looks.is_empty() => {}
            }
        }
        self.board.refresh(Some(&self.screen.run))?;
        let (width, height) = terminal::size().unwrap_or(PAGE);
        let area = Rect::new(0, 0, width, height);
        let mut buffer = Buffer::empty(area);
        self.draw(&mut buffer, area);
        for y in 0..height {
            let cells = (0..width).map(|x| buffer[(x, y)].symbol());
            let line: String = cells.collect();
            ui.line(format_args!("{}", line.trim_end()));
        }
        Ok(())
    }

    /// Every box that is looked at has said something.
    fn has_come(&self) -> bool {
        let mut boxes = self.board.runs.iter();
        boxes.all(|facts| !facts.recorded.box_runs || facts.live.sample_us > 0)
    }

    fn key(&mut self, key: crossterm::event::KeyEvent) -> Act {
        let names: Vec<String> = names(&self.board.runs);
        let runs: Vec<&str> = names.iter().map(String::as_str).collect();
        let lines = self.line_numbers();
        let seen = Seen {
            runs: &runs,
            lines: &lines,
            page: self.page,
        };
        let before = self.screen.run.clone();
        let act = self.screen.key(key, seen);
        if self.screen.run != before {
            self.link();
        }
        act
    }

    fn shown(&self) -> Option<&Facts> {
        let run = &self.screen.run;
        self.board
            .runs
            .iter()
            .find(|facts| facts.recorded.name == *run)
    }

    fn lines(&self, pane: Pane) -> Vec<model::Line> {
        let filter = match pane == self.screen.pane {
            true => self.screen.filter.as_str(),
            false => "",
        };
        self.shown()
            .map_or_else(Vec::new, |facts| model::lines(facts, pane, filter))
    }

    fn line_numbers(&self) -> Vec<u64> {
        self.lines(self.screen.pane)
            .iter()
            .map(|line| line.id)
            .collect()
    }

    fn copy(&mut self, terminal: &mut TerminalScreen) -> std::io::Result<()> {
        let lines = self.lines(self.screen.pane);
        let marked = self.screen.marked(&self.line_numbers());
        let note = match marked.and_then(|at| lines.get(at)) {
            Some(line) => {
                terminal.copy(&line.text)?;
                let count = line.text.chars().count();
                format!(
                    "sent {count} characters to the terminal's clipboard (OSC 52, which it must allow)"
                )
            }
            None => "there is no line to copy".to_owned(),
        };
        self.screen.note = Some(note);
        Ok(())
    }

    fn draw(&mut self, buffer: &mut Buffer, area: Rect) {
        let now_us = self.deps.clock.now_us();
        let rows: Vec<ListRow> = self
            .board
            .runs
            .iter()
            .map(|facts| model::list_row(facts, now_us))
            .collect();
        let view = self.shown().map(|facts| model::view(facts, now_us));
        let scene = Scene {
            screen: &self.screen,
            clock: &model::clock(now_us),
            rows: &rows,
            view: view.as_ref(),
            lines: &|pane| self.lines(pane),
        };
        self.page = draw::draw(buffer, area, &scene, self.colour);
    }

    /// Ends every link in order, for a moment at most.
    async fn close(self) {
        for (_, end) in self.links.values() {
            end.cancel();
        }
        drop(self.news);
        let ends = self.looks.collect::<()>();
        // ssh ends with this program in any case.
        let _took_longer = time::timeout(GOODBYE, ends).await;
    }
}

fn names(runs: &[Facts]) -> Vec<String> {
    let names = runs.iter().map(|facts| facts.recorded.name.clone());
    names.collect()
}

/// What is read of a run: its target, and the expression for its log.
fn wanted(facts: &Facts) -> (Target, Option<String>) {
    let recorded = &facts.recorded;
    let target = Target {
        run: recorded.name.clone(),
        attempt: recorded.attempt,
        copied: None,
        last_event: recorded.last_event,
    };
    (target, facts.log.progress().map(str::to_owned))
}

/// Reads the copies of a run's logs, then looks at its box as long as there is one.
async fn look(
    deps: &Deps,
    (mut target, progress): (Target, Option<String>),
    box_runs: bool,
    listener: Listener,
    end: CancellationToken,
) {
    let (home, run, attempt) = (
        deps.config.home().to_owned(),
        target.run.clone(),
        target.attempt,
    );
    let read = move || gather::copies(&home, &run, attempt, progress);
    let Ok((log, copied)) = tokio::task::spawn_blocking(read).await else {
        return;
    };
    target.copied = copied;
    listener.tell(News::Copies(Box::new(log))).await;
    let Ok(store) = deps.store() else { return };
    if box_runs {
        let run = target.run.as_str();
        live::look(&target, &store, &listener, &end, || dial(deps, run)).await;
    }
}

/// Connects to the agent that is on the box, whichever it is.
async fn dial(deps: &Deps, run: &str) -> Result<(Tunnel, AgentClient), CommandError> {
    let failed = || CommandError::new(format!("the box of `{run}` could not be reached"));
    let target = deps.ssh_target(run).await?;
    let tunnel = Tunnel::connect(target, Patience::known_box(CONNECT_LIMIT))
        .await
        .map_err(|err| failed().cause(err))?;
    let client = bootstrap::reach(&tunnel)
        .await
        .map_err(|err| failed().cause(err))?;
    Ok((tunnel, client))
}
