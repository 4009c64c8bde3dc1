//! What a key does (pure). The screen's own state is here: what is looked at, from where, and by which filter.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What the lower part of the screen shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pane {
    /// The newest log.
    #[default]
    Log,
    /// What happened.
    Events,
    /// Ten minutes at a time.
    Windows,
    /// Its boxes so far.
    Attempts,
}

impl Pane {
    /// In the order of their keys.
    pub const ALL: [Self; 4] = [Self::Log, Self::Events, Self::Windows, Self::Attempts];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Events => "events",
            Self::Windows => "windows",
            Self::Attempts => "attempts",
        }
    }
}

/// What is looked at.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Screen {
    /// The list of runs, not one of them.
    pub list: bool,
    /// Name of the run.
    pub run: String,
    /// What is below.
    pub pane: Pane,
    /// Number of the line that is looked at; `None`: the newest, as it comes.
    pub cursor: Option<u64>,
    /// What lines must contain.
    pub filter: String,
    /// A filter is being typed.
    pub typing: bool,
    /// The keys are shown.
    pub help: bool,
    /// What a key did.
    pub note: Option<String>,
}

/// What is on the screen when a key comes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen<'a> {
    /// Every run, in the order of the list.
    pub runs: &'a [&'a str],
    /// Numbers of the lines of the pane, rising.
    pub lines: &'a [u64],
    /// Lines that fit on the screen.
    pub page: usize,
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    Nothing,
    /// The screen has changed.
    Draw,
    /// The line that is looked at goes to the clipboard.
    Copy,
    /// It is over.
    Leave,
}

/// The keys, for people.
pub const HELP: &[(&str, &str)] = &[
    ("q  Ctrl-C", "leave; nothing happens to any run"),
    ("Left  Right", "the run before, the next run"),
    ("Enter  Esc", "open the run of the list; back to the list"),
    ("Tab  1 2 3 4", "log, events, windows, attempts"),
    (
        "Up Down  k j",
        "a line up, a line down (in the list: a run)",
    ),
    ("PgUp PgDn", "a page up, a page down"),
    ("Home End  g G", "the oldest line; the newest, and follow"),
    ("/", "show only lines that contain a text; Esc ends it"),
    ("c", "copy the marked line, else the newest, by OSC 52"),
    ("?", "these keys"),
];

impl Screen {
    /// Looks at one run, or at the list.
    pub fn new(run: &str, list: bool) -> Self {
        Self {
            list,
            run: run.to_owned(),
            ..Self::default()
        }
    }

    /// Does what a key says.
    pub fn key(&mut self, key: KeyEvent, seen: Seen<'_>) -> Act {
        self.note = None;
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && matches!(key.code, KeyCode::Char('c' | 'd')) {
            return Act::Leave;
        }
        if self.typing {
            return self.type_filter(key.code);
        }
        if self.help {
            self.help = false;
            return match key.code {
                KeyCode::Char('q') => Act::Leave,
                _ => Act::Draw,
            };
        }
        match key.code {
            KeyCode::Char('q') => return Act::Leave,
            KeyCode::Char('?') => self.help = true,
            KeyCode::Char('c' | 'y') if !self.list => return Act::Copy,
            KeyCode::Char('/') if !self.list => {
                self.typing = true;
                self.filter.clear();
                self.cursor = None;
            }
            KeyCode::Esc if !self.filter.is_empty() => {
                self.filter.clear();
                self.cursor = None;
            }
            KeyCode::Esc if self.cursor.is_some() => self.cursor = None,
            KeyCode::Esc | KeyCode::Backspace => self.list = seen.runs.len() > 1,
            KeyCode::Enter if self.list => self.list = false,
            KeyCode::Left | KeyCode::Char('[') => self.other_run(seen.runs, -1),
            KeyCode::Right | KeyCode::Char(']') => self.other_run(seen.runs, 1),
            KeyCode::Up | KeyCode::Char('k') => self.step(seen, -1),
            KeyCode::Down | KeyCode::Char('j') => self.step(seen, 1),
            KeyCode::PageUp => self.step(seen, -page(seen)),
            KeyCode::PageDown => self.step(seen, page(seen)),
            KeyCode::Home | KeyCode::Char('g') => self.step(seen, isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.step(seen, isize::MAX),
            KeyCode::Tab => self.other_pane(1),
            KeyCode::BackTab => self.other_pane(3),
            KeyCode::Char(digit @ '1'..='4') => {
                let index = digit as usize - '1' as usize;
                self.look_at(Pane::ALL[index]);
            }
            _ => return Act::Nothing,
        }
        Act::Draw
    }

    fn type_filter(&mut self, code: KeyCode) -> Act {
        match code {
            KeyCode::Char(letter) if !letter.is_control() => self.filter.push(letter),
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            _ => return Act::Nothing,
        }
        Act::Draw
    }

    fn other_run(&mut self, runs: &[&str], by: isize) {
        let Some(at) = runs.iter().position(|run| *run == self.run) else {
            return;
        };
        let to = at.saturating_add_signed(by).min(runs.len() - 1);
        if to != at {
            (self.run, self.cursor) = (runs[to].to_owned(), None);
        }
    }

    fn other_pane(&mut self, by: usize) {
        let at = Pane::ALL.iter().position(|pane| *pane == self.pane);
        self.look_at(Pane::ALL[(at.unwrap_or(0) + by) % Pane::ALL.len()]);
    }

    fn look_at(&mut self, pane: Pane) {
        if self.pane != pane {
            (self.pane, self.cursor) = (pane, None);
        }
        self.list = false;
    }

    /// Moves by so many lines; past the newest one it follows again.
    fn step(&mut self, seen: Seen<'_>, by: isize) {
        if self.list {
            return self.other_run(seen.runs, by);
        }
        let count = seen.lines.len();
        let at = match self.cursor {
            // Lines that are gone were before all others.
            Some(cursor) => seen.lines.partition_point(|line| *line < cursor),
            None => count.saturating_sub(1),
        };
        let to = at.saturating_add_signed(by);
        let is_past = count == 0 || to >= count || (by > 0 && to + 1 == count);
        self.cursor = (!is_past).then(|| seen.lines[to]);
    }

    /// The line that a copy takes, by its place among `lines`.
    pub fn marked(&self, lines: &[u64]) -> Option<usize> {
        let at = match self.cursor {
            Some(cursor) => lines.partition_point(|line| *line < cursor),
            None => lines.len().checked_sub(1)?,
        };
        (at < lines.len()).then_some(at)
    }
}

/// A page, less the line that stays for the eye.
fn page(seen: Seen<'_>) -> isize {
    isize::try_from(seen.page.saturating_sub(1).max(1)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNS: &[&str] = &["a", "b", "c"];
    const LINES: &[u64] = &[10, 11, 14, 15, 16];

    fn press(screen: &mut Screen, codes: &[KeyCode]) -> Act {
        let seen = Seen {
            runs: RUNS,
            lines: LINES,
            page: 3,
        };
        let acts = codes
            .iter()
            .map(|code| screen.key(KeyEvent::from(*code), seen));
        acts.last().expect("a key")
    }

    #[test]
    fn a_cursor_walks_over_the_lines_and_follows_again_at_the_end() {
        use KeyCode::*;
        for (keys, expected) in [
            (vec![Up], Some(15)),
            (vec![Up, Up], Some(14)),
            (vec![Char('k'), Char('j')], None),
            (vec![PageUp], Some(14)),
            (vec![PageUp, PageUp, PageUp], Some(10)),
            (vec![Home], Some(10)),
            (vec![Home, Down], Some(11)),
            (vec![Home, End], None),
            (vec![Home, Char('G')], None),
            (vec![Home, PageDown], Some(14)),
            (vec![Up, Esc], None),
            (vec![Up, Tab], None),
        ] {
            let mut screen = Screen::new("b", false);
            press(&mut screen, &keys);
            assert_eq!(screen.cursor, expected, "{keys:?}");
            assert!(!screen.list, "{keys:?}");
        }
        let mut screen = Screen::new("b", false);
        screen.cursor = Some(12);
        assert_eq!(
            screen.marked(LINES),
            Some(2),
            "the line is gone: the one after it"
        );
        screen.cursor = None;
        assert_eq!(screen.marked(LINES), Some(4));
        assert_eq!(screen.marked(&[]), None);
    }

    #[test]
    fn keys_switch_runs_and_panes_and_open_the_list() {
        use KeyCode::*;
        let mut screen = Screen::new("b", false);
        let mut check = |keys: &[KeyCode], run: &str, pane: Pane, list: bool| {
            press(&mut screen, keys);
            let found = (screen.run.as_str(), screen.pane, screen.list);
            assert_eq!(found, (run, pane, list), "{keys:?}");
        };
        check(&[Right], "c", Pane::Log, false);
        check(&[Right, Right], "c", Pane::Log, false);
        check(&[Left, Left, Left], "a", Pane::Log, false);
        check(&[Tab], "a", Pane::Events, false);
        check(&[BackTab, BackTab], "a", Pane::Attempts, false);
        check(&[Esc, Down], "b", Pane::Attempts, true);
        check(&[Enter, Char('3')], "b", Pane::Windows, false);
        check(&[Char('x'), F(1)], "b", Pane::Windows, false);
        let only = Seen {
            runs: &["a"],
            ..Seen::default()
        };
        screen.key(KeyEvent::from(Esc), only);
        assert!(!screen.list, "a list of one says nothing");
    }

    #[test]
    fn a_filter_is_typed_kept_and_ended() {
        use KeyCode::*;
        let mut screen = Screen::new("b", false);
        assert_eq!(
            press(&mut screen, &[Char('/'), Char('q'), Char('?')]),
            Act::Draw
        );
        assert_eq!((screen.filter.as_str(), screen.typing), ("q?", true));
        press(&mut screen, &[Backspace, Enter]);
        assert_eq!((screen.filter.as_str(), screen.typing), ("q", false));
        press(&mut screen, &[Esc]);
        assert_eq!((screen.filter.as_str(), screen.list), ("", false));
    }

    #[test]
    fn leaving_is_always_possible() {
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        for keys in [&[][..], &[KeyCode::Char('/')], &[KeyCode::Char('?')]] {
            let mut screen = Screen::new("b", false);
            keys.iter().for_each(|code| {
                screen.key(KeyEvent::from(*code), Seen::default());
            });
            assert_eq!(
                screen.key(control_c, Seen::default()),
                Act::Leave,
                "{keys:?}"
            );
        }
        let mut screen = Screen::new("b", false);
        assert_eq!(press(&mut screen, &[KeyCode::Char('c')]), Act::Copy);
        assert_eq!(press(&mut screen, &[KeyCode::Char('?')]), Act::Draw);
        assert!(screen.help);
        assert_eq!(
            press(&mut screen, &[KeyCode::Char('x')]),
            Act::Draw,
            "any key ends the help"
        );
        assert!(!screen.help);
        assert_eq!(press(&mut screen, &[KeyCode::Char('q')]), Act::Leave);
    }
}
