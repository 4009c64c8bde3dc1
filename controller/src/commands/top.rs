//! `top`: a screen that shows one run, or all. Gathers, listens and draws; what it looks at goes on whatever happens here.

use std::time::Duration;

use crossterm::event::Event;
use ratatui::{buffer::Buffer, layout::Rect};
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::{
    commands::Deps,
    error::CommandError,
    lookout::{
        facts::{Facts, HISTORY_S, News, Reach},
        gather::{Board, Extent},
        links::{Heard, Links, Logs},
        live::Manner,
    },
    top::{
        draw::{self, Scene},
        keys::{Act, Pane, Screen, Seen},
        model::{self, ListRow},
    },
    ui::{Ui, terminal, terminal::TerminalScreen},
};

/// Runs that are shown, and read in one round.
const MAX_RUNS: usize = 100;
/// Boxes that are looked at at the same time; of others the record is shown, until they are chosen.
const MAX_LINKS: usize = 16;
/// Between two looks into the store, and between two frames while nothing happens.
const ROUND: Duration = Duration::from_secs(1);
/// Between two frames while much happens.
const FRAME: Duration = Duration::from_millis(250);
/// Between two questions how a box is.
const POLL: Duration = Duration::from_secs(2);
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
    let extent = Extent {
        runs: MAX_RUNS,
        each_round: MAX_RUNS,
    };
    let board = Board::open(deps.store()?, args.run.clone(), extent)?;
    let first = board.runs.first();
    let first = first.map_or_else(String::new, |facts| facts.recorded.name.clone());
    let going = board.runs.iter().filter(|facts| !facts.recorded.is_over);
    let list = board.runs.len() > 1 && going.count() != 1;
    let manner = Manner {
        poll: POLL,
        history_s: HISTORY_S,
        is_program: false,
    };
    let mut watch = Watch {
        deps,
        board,
        screen: Screen::new(&first, list),
        colour: deps.config.ui_options().colours(),
        page: 1,
        links: Links::new(deps.looking(manner, Logs::All, MAX_LINKS)),
    };
    let shown = match args.once {
        true => watch.once(ui, &stop).await,
        false => watch.interact(&stop).await,
    };
    watch.links.close().await;
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
    links: Links<'a>,
}

impl Watch<'_> {
    /// Reads the record, and looks at what it tells of.
    fn refresh(&mut self) -> Result<(), CommandError> {
        let shown = |run: &str| run == self.screen.run;
        self.board.refresh(&shown)?;
        self.links.update(&mut self.board, &shown);
        Ok(())
    }

    /// Another run is chosen.
    fn link(&mut self) {
        let shown = |run: &str| run == self.screen.run;
        self.links.update(&mut self.board, &shown);
    }

    /// Takes what has come.
    fn learn(&mut self, (run, attempt, news): Heard) {
        let now_us = self.deps.clock.now_us();
        self.board.learn(&run, attempt, news, now_us);
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
                    self.refresh()?;
                    is_due = true;
                }
                () = time::sleep_until(drawn + FRAME), if is_due => {}
                Some(news) = self.links.hear() => {
                    self.learn(news);
                    is_due = true;
                }
            }
        }
    }

    /// One frame as text, when the box has said something or a while has passed.
    async fn once(&mut self, ui: &mut Ui, stop: &CancellationToken) -> Result<(), CommandError> {
        self.link();
        let limit = time::Instant::now() + ONCE_LIMIT;
        let mut until = limit;
        loop {
            let news = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = time::sleep_until(until) => break,
                news = self.links.hear() => news,
            };
            // Nobody brings more.
            let Some(news) = news else { break };
            let failed = matches!(news, (_, _, News::Reach(Reach::Lost { .. })));
            self.learn(news);
            if until == limit && (failed || self.has_come()) {
                until = limit.min(time::Instant::now() + ONCE_SETTLE);
            }
        }
        self.refresh()?;
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
        self.board.find(&self.screen.run)
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
}

fn names(runs: &[Facts]) -> Vec<String> {
    let names = runs.iter().map(|facts| facts.recorded.name.clone());
    names.collect()
}
