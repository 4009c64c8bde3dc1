//! Every line the user sees. Data goes to stdout, as a table or as JSON; everything else goes to stderr.
//!
//! Colour, quietness and the width of the terminal are decided here, once. Text that others wrote is cleaned of terminal
//! escapes on its way out ([`sanitize`]).

mod attempts;
mod console;
#[cfg(test)]
pub(crate) mod paper;
pub mod sanitize;
mod table;
pub mod terminal;
pub mod text;

use std::{
    fmt,
    io::{self, IsTerminal, Write},
};

use serde::Serialize;
use tracing_subscriber::{
    Layer, filter::Targets, fmt as log, layer::SubscriberExt, util::SubscriberInitExt,
};

use self::console::Paint;
pub use self::{
    attempts::attempts_table,
    console::{Console, Progress, Unit},
    table::Table,
};
use crate::error::CommandError;

/// When to colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ColourChoice {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How the user wants to be spoken to.
#[derive(Debug, Clone, Copy, Default)]
pub struct UiOptions {
    /// Data as JSON.
    pub json: bool,
    /// No status lines and hints.
    pub quiet: bool,
    /// When to colour.
    pub colour: ColourChoice,
    /// `NO_COLOR` is set to something, or the terminal is a dumb one.
    pub no_colour_env: bool,
}

impl UiOptions {
    /// Whether what is drawn on a terminal has colours.
    pub fn colours(self) -> bool {
        self.colour(true)
    }

    fn colour(self, terminal: bool) -> bool {
        match self.colour {
            ColourChoice::Always => true,
            ColourChoice::Never => false,
            ColourChoice::Auto => terminal && !self.no_colour_env,
        }
    }
}

/// The one door to the user.
pub struct Ui {
    out: Box<dyn Write + Send>,
    out_is_open: bool,
    out_is_terminal: bool,
    out_colour: bool,
    width: Option<u16>,
    json: bool,
    console: Console,
}

impl Ui {
    /// The real one: stdout and stderr.
    pub fn new(options: UiOptions) -> Self {
        let out_is_terminal = io::stdout().is_terminal();
        Self {
            out: Box::new(io::stdout()),
            out_is_open: true,
            out_is_terminal,
            out_colour: options.colour(out_is_terminal),
            width: out_is_terminal.then(terminal_width),
            json: options.json,
            console: Console::stderr(options.quiet, options.colour(io::stderr().is_terminal())),
        }
    }

    /// One that writes to the given places, as if neither were a terminal.
    pub fn to(out: Box<dyn Write + Send>, err: Box<dyn Write + Send>, options: UiOptions) -> Self {
        Self {
            out,
            out_is_open: true,
            out_is_terminal: false,
            out_colour: options.colour(false),
            width: None,
            json: options.json,
            console: Console::to(err, options.quiet, options.colour(false)),
        }
    }

    /// The part for people; clones may be given to tasks.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// A sentence about what goes on, such as `Stopped `a` at step 400.`
    pub fn status(&mut self, text: fmt::Arguments<'_>) {
        self.console.status(text);
    }

    /// Something that is not as it should be, yet does not end the verb.
    pub fn warning(&mut self, text: fmt::Arguments<'_>) {
        self.console.warning(text);
    }

    /// Something to type next.
    pub fn hint(&mut self, text: fmt::Arguments<'_>) {
        self.console.hint(text);
    }

    /// Shows that something takes a while. `total`: 0 when it is not known.
    pub fn progress(&mut self, label: &str, unit: Unit, total: u64) -> Progress {
        self.console.progress(label, unit, total)
    }

    /// Asks a question that wants yes or no; `None` when nobody can be asked.
    pub fn confirm(&mut self, question: &str) -> Option<bool> {
        self.console.confirm(question)
    }

    /// Data: `value` as one line of JSON with `--json`, else the table made of it.
    pub fn show<T: Serialize>(&mut self, value: &T, table: impl FnOnce(&T) -> Table) {
        if self.json {
            self.json(value);
        } else {
            let text = table(value).render(self.width);
            self.write(text.as_bytes());
        }
    }

    /// Data as one line of JSON, whatever was asked for.
    pub fn json<T: Serialize>(&mut self, value: &T) {
        let mut line = serde_json::to_string(value).expect("what is shown is plain data");
        line.push('\n');
        self.write(line.as_bytes());
    }

    /// Data as a table, whatever was asked for.
    pub fn table(&mut self, table: &Table) {
        let text = table.render(self.width);
        self.write(text.as_bytes());
    }

    /// The same as wide as it gets, whatever the terminal does with it.
    pub fn wide_table(&mut self, table: &Table) {
        let text = table.render(None);
        self.write(text.as_bytes());
    }

    /// Data as a line of text.
    pub fn line(&mut self, text: fmt::Arguments<'_>) {
        let text = text.to_string();
        self.write(format!("{}\n", sanitize::text(&text)).as_bytes());
    }

    /// Data as bytes, exactly as they are. On a terminal, send them through [`Self::stream`] first.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.write(bytes);
    }

    /// What cleans a log for this stdout; `None` where it is no terminal and every byte counts.
    pub fn stream(&self) -> Option<sanitize::Stream> {
        self.out_is_terminal
            .then(|| sanitize::Stream::with_colours(self.out_colour))
    }

    /// Whether data is wanted as JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Columns of the terminal that data goes to; `None` where it is no terminal.
    pub fn width(&self) -> Option<u16> {
        self.width
    }

    /// Whether data goes to a terminal.
    pub fn is_terminal(&self) -> bool {
        self.out_is_terminal
    }

    /// Whether anybody still reads stdout. A verb that only prints may stop; one that rents goes on.
    pub fn is_open(&self) -> bool {
        self.out_is_open
    }

    /// Prints an error in the house form: what, why, what it still costs, what to type.
    pub fn error(&mut self, err: &CommandError, money: &[String]) {
        self.console.marked("error", Paint::Red, err.message());
        if !err.causes().is_empty() {
            self.console
                .marked("cause", Paint::Bold, &err.causes().join(": "));
        }
        for line in money {
            self.console.marked("money", Paint::Magenta, line);
        }
        for hint in err.hints() {
            self.console.marked("hint", Paint::Cyan, hint);
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        if !self.out_is_open {
            return;
        }
        let (console, out) = (&self.console, &mut self.out);
        let result = console.aside(|| out.write_all(bytes).and_then(|()| out.flush()));
        if let Err(err) = result {
            self.out_is_open = false;
            // `spotter ps | head` is no mistake; a full disk is.
            if err.kind() != io::ErrorKind::BrokenPipe {
                self.console
                    .warning(format_args!("the output was cut short: {err}"));
            }
        }
    }
}

impl fmt::Debug for Ui {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ui")
            .field("json", &self.json)
            .finish_non_exhaustive()
    }
}

/// Shows the log on stderr: warnings always, more with each `-v`.
pub fn show_log(verbosity: u8) {
    let filter = match verbosity {
        0 => "warn",
        1 => "warn,spotter=info,spotter_bucket=info",
        2 => "info,spotter=debug,spotter_bucket=debug",
        _ => "trace",
    };
    // The programs that call this do so once; a second call in a test keeps the first log.
    let filter: Targets = filter
        .parse()
        .expect("the four filters above are well formed");
    let lines = log::layer()
        .with_writer(io::stderr)
        .with_ansi(false)
        .without_time()
        .with_target(verbosity > 0);
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init();
}

/// Makes a mistake of spotter's own say so, and end the program with 101.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        let what = panic.payload_as_str().unwrap_or("no message");
        let error = CommandError::bug(format!("spotter met a mistake of its own at {place}"))
            .because(what)
            .hint("the run goes on by itself: see it with `spotter ps`");
        Ui::new(UiOptions::default()).error(&error, &[]);
        std::process::exit(i32::from(error.exit_code()));
    }));
}

/// Columns that a table may take: those of the terminal; 80 when it does not say, or has fewer. A table that is squeezed further breaks
/// its words into letters, and the terminal breaks its lines better.
fn terminal_width() -> u16 {
    comfy_table::Table::new().width().unwrap_or(80).max(80)
}

#[cfg(test)]
mod tests {
    use super::{paper::Paper, *};

    fn ui(options: UiOptions) -> (Ui, Paper, Paper) {
        let (out, err) = (Paper::default(), Paper::default());
        (
            Ui::to(Box::new(out.clone()), Box::new(err.clone()), options),
            out,
            err,
        )
    }

    #[test]
    fn an_error_says_what_why_what_it_costs_and_what_to_type() {
        let (mut ui, out, err) = ui(UiOptions::default());
        let error =
            CommandError::new("run `llama-7b` did not start: its agent gave no answer in 60 s")
                .because("ssh root@203.0.113.42:40123")
                .because("no handshake \x1b[2Jfrom the agent\nerror: forged")
                .hint("read its log with `logs llama-7b --boot`")
                .hint("or end it with `destroy llama-7b`");
        ui.error(&error, &["instance 1234567 still costs $0.42/h".into()]);
        let expected = "\
error: run `llama-7b` did not start: its agent gave no answer in 60 s
cause: ssh root@203.0.113.42:40123: no handshake from the agent
       error: forged
money: instance 1234567 still costs $0.42/h
hint: read its log with `logs llama-7b --boot`
hint: or end it with `destroy llama-7b`
";
        assert_eq!(err.text(), expected);
        assert_eq!(out.text(), "");
    }

    #[test]
    fn quiet_leaves_out_what_is_not_needed() {
        let (mut ui, _, err) = ui(UiOptions {
            quiet: true,
            ..UiOptions::default()
        });
        ui.status(format_args!("Rented."));
        ui.hint(format_args!("nothing"));
        ui.warning(format_args!("the backup is late"));
        assert_eq!(err.text(), "warning: the backup is late\n");
    }

    #[test]
    fn data_is_a_table_or_one_line_of_json() {
        let rows = vec![1, 2];
        let table = |rows: &Vec<i32>| {
            let mut table = Table::new(&["N>"]);
            for row in rows {
                table.row([row.to_string()]);
            }
            table
        };
        let (mut people, out, _) = ui(UiOptions::default());
        people.show(&rows, table);
        assert_eq!(out.text(), "N\n1\n2\n");
        let (mut machines, out, _) = ui(UiOptions {
            json: true,
            ..UiOptions::default()
        });
        machines.show(&rows, table);
        assert_eq!(out.text(), "[1,2]\n");
    }

    #[test]
    fn colour_is_a_matter_of_terminal_choice_and_environment() {
        let options = |colour, no_colour_env| UiOptions {
            colour,
            no_colour_env,
            ..UiOptions::default()
        };
        use ColourChoice::*;
        let cases = [
            (options(Auto, false), true, true),
            (options(Auto, false), false, false),
            (options(Auto, true), true, false),
            (options(Always, true), false, true),
            (options(Never, false), true, false),
        ];
        for (options, terminal, expected) in cases {
            assert_eq!(options.colour(terminal), expected, "{options:?} {terminal}");
        }
    }

    #[test]
    fn without_a_terminal_progress_is_a_line_at_each_tenth() {
        let (mut ui, _, err) = ui(UiOptions::default());
        let progress = ui.progress("code", Unit::Bytes, 1000);
        for done in [0, 50, 100, 150, 1000, 1000] {
            progress.set(done, 1000);
        }
        progress.message("checking");
        progress.message("checking");
        let expected = "\
code: 10 % (100 B of 1000 B)
code: 100 % (1000 B of 1000 B)
code: checking
";
        assert_eq!(err.text(), expected);
    }

    #[test]
    fn a_reader_who_left_is_no_error() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let err = Paper::default();
        let mut ui = Ui::to(
            Box::new(Closed),
            Box::new(err.clone()),
            UiOptions::default(),
        );
        ui.line(format_args!("x"));
        assert!(!ui.is_open());
        assert_eq!(err.text(), "");
    }
}
