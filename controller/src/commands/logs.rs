//! `logs`: what a run's sessions print, from the live agent; from the copy on this machine when the box is gone.

use std::fs;

use futures::StreamExt;
use serde::Serialize;

use super::attach::session_name;
use crate::{
    agent_client::{AgentClient, Link, LogPiece, LogPosition, LogStart},
    bootstrap,
    commands::{Deps, parts::no_box},
    error::CommandError,
    logbook::Logbook,
    run::{
        State,
        bringing_up::{SETUP, SMOKE, TRAIN},
    },
    store::AttemptRecord,
    tunnel::{Patience, Tunnel},
    ui::{Ui, sanitize},
};

/// How long a box is tried that was reached before.
const CONNECT_LIMIT: std::time::Duration = std::time::Duration::from_secs(30);
/// The same where what it printed before is on this machine.
const COPY_LIMIT: std::time::Duration = std::time::Duration::from_secs(6);
/// What a line of a log has at most, mostly: this much is asked for per line of `--tail`.
const LINE_BYTES: u64 = 400;

/// Show what a run prints
///
/// Read from the box while there is one, else from the copy that is kept on this machine. On a terminal, control
/// sequences other than colours are left out; elsewhere every byte is as it was written.
#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// The run [default: the only one that goes on]
    run: Option<String>,
    /// Go on with new lines until the session has ended; a broken link is mended on the way
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "LINES", value_parser = lines, allow_negative_numbers = true)]
    tail: Option<u64>,
    /// Session: train, smoke or setup [default: train, before that smoke, before that setup]
    #[arg(long, value_name = "NAME", value_parser = session_name)]
    session: Option<String>,
    /// Attempt [default: the newest]
    #[arg(long, value_name = "N", conflicts_with = "follow")]
    attempt: Option<u32>,
}

/// One piece of a log, as JSON.
#[derive(Serialize)]
struct Row<'a> {
    run: &'a str,
    attempt: u32,
    session: &'a str,
    /// Place of the first byte; null in a copy.
    position: Option<LogPosition>,
    /// Bytes lost before this piece.
    gap_bytes: u64,
    text: &'a str,
}

/// Prints pieces for people, for programs, or as they are.
struct Printer<'a> {
    ui: &'a mut Ui,
    clean: Option<sanitize::Stream>,
    run: &'a str,
    attempt: u32,
    session: String,
    joined: Joined,
}

impl Printer<'_> {
    fn print(&mut self, data: &[u8], position: Option<LogPosition>, gap_bytes: u64) {
        if gap_bytes > 0 {
            self.ui.warning(format_args!(
                "{gap_bytes} bytes of the log are missing here"
            ));
        }
        if self.ui.is_json() {
            let (text, position) = self.joined.text(data, position, gap_bytes);
            self.json(&text, position, gap_bytes);
            return;
        }
        if data.is_empty() {
            return;
        }
        if let Some(clean) = &mut self.clean {
            self.ui.bytes(&clean.clean(data));
        } else {
            self.ui.bytes(data);
        }
    }
}

impl Printer<'_> {
    fn json(&mut self, text: &str, position: Option<LogPosition>, gap_bytes: u64) {
        if text.is_empty() {
            return;
        }
        let (run, attempt, session) = (self.run, self.attempt, &self.session);
        self.ui.json(&Row {
            run,
            attempt,
            session,
            position,
            gap_bytes,
            text,
        });
    }

    /// Nothing follows: the first bytes of a character that never came are told as they are.
    fn end(&mut self) {
        if self.ui.is_json() {
            let (text, position) = self.joined.rest();
            self.json(&text, position, 0);
        }
    }
}

/// Makes text of pieces that may be cut within a character.
#[derive(Debug, Default)]
struct Joined {
    /// First bytes of a character whose others are in the next piece.
    begun: Vec<u8>,
    at: Option<LogPosition>,
}

impl Joined {
    /// The whole characters of what was left and of a piece, and the place of the first.
    fn text(
        &mut self,
        data: &[u8],
        position: Option<LogPosition>,
        gap_bytes: u64,
    ) -> (String, Option<LogPosition>) {
        let follows = gap_bytes == 0
            && match (self.at, position) {
                (Some(at), Some(position)) => {
                    let offset = at.offset + self.begun.len() as u64;
                    position == LogPosition { offset, ..at }
                }
                // After the copy comes what the copy lacks.
                (None, _) => true,
                (Some(_), None) => false,
            };
        // A gap in the middle of a character: both halves are told as they are.
        let (head, at) = match self.begun.is_empty() || follows {
            true if self.begun.is_empty() => (String::new(), position),
            true => (String::new(), self.at),
            false => (self.rest().0, position),
        };
        let mut bytes = std::mem::take(&mut self.begun);
        bytes.extend_from_slice(data);
        let whole = whole_bytes(&bytes);
        self.begun = bytes.split_off(whole);
        self.at = at.map(|at| LogPosition {
            offset: at.offset + whole as u64,
            ..at
        });
        (head + &String::from_utf8_lossy(&bytes), at)
    }

    /// What is left.
    fn rest(&mut self) -> (String, Option<LogPosition>) {
        let left = std::mem::take(&mut self.begun);
        (String::from_utf8_lossy(&left).into_owned(), self.at.take())
    }
}

/// How many bytes there are before a character that is cut at the end (pure); what is no text at all is not cut.
fn whole_bytes(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    (tail..bytes.len())
        .find(|start| {
            std::str::from_utf8(&bytes[*start..])
                .is_err_and(|err| err.valid_up_to() == 0 && err.error_len().is_none())
        })
        .unwrap_or(bytes.len())
}

/// How many lines.
fn lines(text: &str) -> Result<u64, String> {
    let most = u64::MAX;
    text.parse()
        .map_err(|_| format!("a number of lines is whole, from 0 to {most}"))
}

/// Runs the verb.
pub async fn logs(ui: &mut Ui, deps: &Deps, args: &LogsArgs) -> Result<(), CommandError> {
    let run = deps.load_run(args.run.as_deref())?;
    let attempts = deps.store()?.attempts(&run.name)?;
    let attempt = match args.attempt {
        Some(number) => attempts.iter().find(|attempt| attempt.number == number),
        None => attempts.last(),
    };
    let attempt = attempt.ok_or_else(|| match args.attempt {
        Some(number) => CommandError::usage(format!("run `{}` has no attempt {number}", run.name)),
        None => no_box(&run),
    })?;
    let newest = attempts
        .last()
        .is_some_and(|last| last.number == attempt.number);
    let clean = ui.stream();
    let session = args.session.clone().unwrap_or_else(|| TRAIN.to_owned());
    let mut printer = Printer {
        ui,
        clean,
        run: &run.name,
        attempt: attempt.number,
        session,
        joined: Joined::default(),
    };
    let printed = print(&mut printer, deps, args, attempt, newest).await;
    printer.end();
    printed
}

async fn print(
    printer: &mut Printer<'_>,
    deps: &Deps,
    args: &LogsArgs,
    attempt: &AttemptRecord,
    newest: bool,
) -> Result<(), CommandError> {
    // A box that was stopped, taken back or lost is not asked: what it printed is here.
    let runs = matches!(
        attempt.state,
        State::Preparing | State::Syncing | State::Smoke | State::Running | State::Finishing
    );
    if !(newest && runs && !attempt.ssh.is_empty()) {
        return copied(printer, deps, args, attempt);
    }
    // What is here is shown at once: a box behind a silent link takes its time.
    let shown = match args.tail {
        None => shown_copy(printer, deps, args, attempt)?,
        Some(_) => None,
    };
    match live(printer, deps, args, attempt, shown).await {
        Err(err) if !args.follow && shown.is_some() => {
            printer.ui.warning(format_args!(
                "the box does not answer ({}): this was the copy on this machine",
                why(&err)
            ));
            Ok(())
        }
        Err(err) if !args.follow && has_copy(printer, deps, attempt) => {
            printer.ui.warning(format_args!(
                "the box does not answer ({}): this is the copy on this machine",
                why(&err)
            ));
            copied(printer, deps, args, attempt)
        }
        other => other,
    }
}

fn why(err: &CommandError) -> String {
    match err.causes() {
        [] => err.message().to_owned(),
        causes => causes.join(": "),
    }
}

/// Prints the copy of a training's log on this machine; answers where on the box it goes on.
fn shown_copy(
    printer: &mut Printer<'_>,
    deps: &Deps,
    args: &LogsArgs,
    attempt: &AttemptRecord,
) -> Result<Option<LogPosition>, CommandError> {
    // While the box is prepared the session to show is not known yet.
    if args.session.is_none() && attempt.state.is_bring_up() || !has_copy(printer, deps, attempt) {
        return Ok(None);
    }
    let book = Logbook::new(deps.config.home());
    let failed = |err: std::io::Error| {
        CommandError::new(format!("the log of `{}` could not be read", printer.run)).cause(err)
    };
    let position = || {
        book.open(printer.run, attempt.number, &printer.session)
            .map(|copy| copy.position())
            .map_err(failed)
    };
    let path = book.path(printer.run, attempt.number, &printer.session);
    // Whoever watches the run appends to the copy meanwhile.
    let (mut at, mut bytes) = (position()?, fs::read(&path).map_err(failed)?);
    while position()? != at {
        (at, bytes) = (position()?, fs::read(&path).map_err(failed)?);
    }
    printer.print(&bytes, None, 0);
    Ok(Some(at))
}

/// Whether something of this log was copied to this machine.
fn has_copy(printer: &Printer<'_>, deps: &Deps, attempt: &AttemptRecord) -> bool {
    let book = Logbook::new(deps.config.home());
    book.path(printer.run, attempt.number, &printer.session)
        .exists()
}

/// From the copy on this machine.
fn copied(
    printer: &mut Printer<'_>,
    deps: &Deps,
    args: &LogsArgs,
    attempt: &AttemptRecord,
) -> Result<(), CommandError> {
    let book = Logbook::new(deps.config.home());
    let mut path = book.path(printer.run, attempt.number, &printer.session);
    for before in [SMOKE, SETUP] {
        if args.session.is_none() && !path.exists() {
            printer.session = before.to_owned();
            path = book.path(printer.run, attempt.number, before);
        }
    }
    let bytes = fs::read(&path).map_err(|err| {
        let what = format!(
            "there is no log of attempt {} of `{}`",
            attempt.number, printer.run
        );
        CommandError::new(what).because(format!(
            "its box is gone, and the copy {} cannot be read: {err}",
            path.display()
        ))
    })?;
    printer.print(last_lines(&bytes, args.tail), None, 0);
    Ok(())
}

/// From the agent.
async fn live(
    printer: &mut Printer<'_>,
    deps: &Deps,
    args: &LogsArgs,
    attempt: &AttemptRecord,
    shown: Option<LogPosition>,
) -> Result<(), CommandError> {
    let name = printer.run.to_owned();
    let failed =
        || CommandError::new(format!("the log of `{name}` could not be read")).about(name.as_str());
    let target = deps.ssh_target(&name).await?;
    // With a copy at hand a silent link is not worth a long wait, unless somebody wants what comes.
    let hurry = !args.follow && has_copy(printer, deps, attempt);
    let limit = if hurry { COPY_LIMIT } else { CONNECT_LIMIT };
    let tunnel = Tunnel::connect(target, Patience::known_box(limit))
        .await
        .map_err(|err| failed().cause(err))?;
    let client = bootstrap::reach(&tunnel)
        .await
        .map_err(|err| failed().cause(err))?;
    if args.session.is_none() && shown.is_none() {
        let sessions = client.sessions().await.map_err(|err| failed().cause(err))?;
        if !sessions.iter().any(|session| session.name == TRAIN) {
            let before = [SMOKE, SETUP]
                .into_iter()
                .find(|name| sessions.iter().any(|session| session.name == *name));
            printer.session = before.unwrap_or(SETUP).to_owned();
        }
    }
    let mut start = LogStart::At(shown.unwrap_or_default());
    let mut ended = false;
    if let Some(lines) = args.tail {
        // What is there now, cut to the lines that were asked for; from its end on it may be followed.
        let bytes = lines.saturating_mul(LINE_BYTES).clamp(4096, 64 << 20);
        let mut pieces = client.logs(&printer.session, LogStart::Tail(bytes), false);
        let (mut tail, mut first) = (Vec::new(), None);
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|err| failed().cause(err))?;
            first.get_or_insert(piece.position);
            start = LogStart::At(piece.next());
            ended |= piece.end;
            tail.extend_from_slice(&piece.data);
        }
        let shown = last_lines(&tail, args.tail);
        let position = first.map(|first| LogPosition {
            offset: first.offset + (tail.len() - shown.len()) as u64,
            ..first
        });
        printer.print(shown, position, 0);
        if !args.follow || ended {
            tunnel.close().await;
            return Ok(());
        }
    }
    let outcome = follow(printer, &client, start, args.follow)
        .await
        .map_err(|err| failed().cause(err));
    tunnel.close().await;
    outcome
}

/// Prints pieces until there are no more, or nobody reads them.
async fn follow(
    printer: &mut Printer<'_>,
    client: &AgentClient,
    start: LogStart,
    follow_on: bool,
) -> Result<(), crate::agent_client::AgentError> {
    let mut pieces = client.logs(&printer.session, start, follow_on);
    let mut link = client.link();
    let mut lost = false;
    loop {
        let piece: LogPiece = tokio::select! {
            piece = pieces.next() => match piece {
                Some(piece) => piece?,
                None => return Ok(()),
            },
            Ok(()) = link.changed() => {
                match &*link.borrow_and_update() {
                    Link::Lost { why, .. } if !lost => {
                        lost = true;
                        printer.ui.status(format_args!("The link is lost, trying again ({why})."));
                    }
                    Link::Connected if lost => {
                        lost = false;
                        printer.ui.status(format_args!("The link is back."));
                    }
                    _ => {}
                }
                continue;
            }
        };
        printer.print(&piece.data, Some(piece.position), piece.gap_bytes);
        if piece.end || !printer.ui.is_open() {
            return Ok(());
        }
    }
}

/// The last lines of a text; all of it without a number. A last line without an end counts.
fn last_lines(bytes: &[u8], lines: Option<u64>) -> &[u8] {
    let Some(lines) = lines else { return bytes };
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let mut left = lines;
    let mut from = bytes.len();
    let mut at = body.len();
    while left > 0 {
        match body[..at].iter().rposition(|byte| *byte == b'\n') {
            Some(end) => {
                from = end + 1;
                at = end;
            }
            None => return bytes,
        }
        left -= 1;
    }
    &bytes[from..]
}

#[cfg(test)]
mod tests;
