//! The terminal as a screen of cells with keys: what `spotter top` draws on. Whatever ends the program, the terminal is as it was.

use std::{
    cell::Cell,
    io::{self, IsTerminal, Stdout, Write},
    panic,
    rc::Rc,
    sync::atomic::{AtomicBool, Ordering},
};

use crossterm::{
    clipboard::CopyToClipboard,
    cursor, event,
    event::{Event, EventStream},
    execute, queue,
    terminal::{
        self, BeginSynchronizedUpdate, EndSynchronizedUpdate, EnterAlternateScreen,
        LeaveAlternateScreen,
    },
};
use futures::StreamExt;
use ratatui::{
    Terminal, TerminalOptions, Viewport, backend::CrosstermBackend, buffer::Buffer, layout::Rect,
};

/// The screen is open, and must be closed by whoever ends the program.
static OPEN: AtomicBool = AtomicBool::new(false);

/// The screen, until it is dropped.
pub struct TerminalScreen {
    frames: Frames<Stdout>,
    events: EventStream,
}

/// Frames on their way to a terminal. Each is one write, so that a slow line shows none by halves, and begins and ends with the words
/// by which a terminal shows it at once (DEC mode 2026; others pass over them). Only cells that changed are in it.
struct Frames<W: Write> {
    terminal: Terminal<CrosstermBackend<Whole<W>>>,
    under_way: Rc<Cell<bool>>,
}

/// Keeps what is written until it is flushed, and a frame until it is over: whoever draws flushes in the middle of it.
struct Whole<W> {
    out: W,
    kept: Vec<u8>,
    under_way: Rc<Cell<bool>>,
}

impl<W: Write> Write for Whole<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.kept.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.under_way.get() {
            return Ok(());
        }
        let sent = self.out.write_all(&self.kept);
        self.kept.clear();
        sent?;
        self.out.flush()
    }
}

impl<W: Write> Frames<W> {
    /// `size`: columns and rows of a terminal that cannot be asked.
    fn new(out: W, size: Option<(u16, u16)>) -> io::Result<Self> {
        let under_way = Rc::new(Cell::new(false));
        let backend = CrosstermBackend::new(Whole {
            out,
            kept: Vec::new(),
            under_way: Rc::clone(&under_way),
        });
        let viewport = match size {
            Some((columns, rows)) => Viewport::Fixed(Rect::new(0, 0, columns, rows)),
            None => Viewport::Fullscreen,
        };
        let terminal = Terminal::with_options(backend, TerminalOptions { viewport })?;
        Ok(Self {
            terminal,
            under_way,
        })
    }

    fn draw(&mut self, draw: impl FnOnce(&mut Buffer, Rect)) -> io::Result<()> {
        self.under_way.set(true);
        queue!(self.terminal.backend_mut(), BeginSynchronizedUpdate)?;
        let drawn = self.terminal.draw(|frame| {
            let area = frame.area();
            draw(frame.buffer_mut(), area);
        });
        let drawn = drawn.map(drop);
        self.under_way.set(false);
        execute!(self.terminal.backend_mut(), EndSynchronizedUpdate)?;
        drawn
    }
}

/// Whether there is a terminal to draw on and to read keys from.
pub fn is_there() -> bool {
    io::stdout().is_terminal() && io::stdin().is_terminal()
}

/// Columns and rows of the terminal that stdout is; `None` where it is none.
pub fn size() -> Option<(u16, u16)> {
    io::stdout().is_terminal().then(|| terminal::size().ok())?
}

impl TerminalScreen {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// When it cannot be read key by key, or drawn on.
    pub fn open() -> io::Result<Self> {
        // A panic is told on the terminal as it was: otherwise nobody would read it.
        let tell = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            close();
            tell(panic);
        }));
        OPEN.store(true, Ordering::SeqCst);
        terminal::enable_raw_mode()?;
        let opened = execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)
            .and_then(|()| Frames::new(io::stdout(), None));
        match opened {
            Ok(frames) => Ok(Self {
                frames,
                events: EventStream::new(),
            }),
            Err(err) => {
                close();
                Err(err)
            }
        }
    }

    /// Draws a frame; only cells that changed are sent.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn draw(&mut self, draw: impl FnOnce(&mut Buffer, Rect)) -> io::Result<()> {
        self.frames.draw(draw)
    }

    /// The next key or change of size; `None` when the terminal is gone.
    pub async fn event(&mut self) -> Option<event::Event> {
        loop {
            match self.events.next().await {
                // Letting a key go is nothing.
                Some(Ok(Event::Key(key))) if key.is_release() => {}
                Some(Ok(event)) => return Some(event),
                Some(Err(_)) | None => return None,
            }
        }
    }

    /// Puts a text into the clipboard of whoever sits before the terminal, as far as that allows it.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn copy(&mut self, text: &str) -> io::Result<()> {
        execute!(
            self.frames.terminal.backend_mut(),
            CopyToClipboard::to_clipboard_from(text)
        )
    }
}

impl Drop for TerminalScreen {
    fn drop(&mut self) {
        close();
    }
}

/// Gives the terminal back, once.
fn close() {
    if OPEN.swap(false, Ordering::SeqCst) {
        // A terminal that is gone needs none of it.
        let mut out = io::stdout();
        let _ = execute!(out, LeaveAlternateScreen, cursor::Show);
        let _ = terminal::disable_raw_mode();
        let _ = out.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use ratatui::style::{Color, Style};

    use super::*;

    /// Keeps each write by itself.
    #[derive(Clone, Default)]
    struct Line(Arc<Mutex<Vec<Vec<u8>>>>);

    impl Write for Line {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Line {
        fn take(&self) -> Vec<String> {
            let writes = std::mem::take(&mut *self.0.lock().unwrap());
            let text = |bytes| String::from_utf8(bytes).unwrap();
            writes.into_iter().map(text).collect()
        }
    }

    #[test]
    fn a_frame_is_one_write_that_is_shown_at_once_and_clears_nothing() {
        const CLEARS: [&str; 5] = ["\x1b[2J", "\x1b[3J", "\x1b[J", "\x1b[0J", "\x1bc"];
        let line = Line::default();
        let mut frames = Frames::new(line.clone(), Some((80, 24))).unwrap();
        let mut draw = |tick: usize| {
            let drawn = frames.draw(|buffer, area| {
                for y in 0..area.height {
                    buffer.set_string(0, y, "loss-2.3456-|#####.....|-step", Style::default());
                }
                let text = format!("tick {tick}");
                buffer.set_string(2, 3, text, Style::default().fg(Color::Red));
            });
            drawn.unwrap();
            line.take()
        };
        let first = draw(0);
        assert_eq!(first.len(), 1, "{first:?}");
        assert!(first[0].contains("loss-2.3456"), "{first:?}");
        for tick in 1..50 {
            let frame = draw(tick);
            assert_eq!(frame.len(), 1, "one write: {frame:?}");
            let frame = &frame[0];
            assert!(frame.starts_with("\x1b[?2026h"), "{frame:?}");
            assert!(frame.ends_with("\x1b[?2026l"), "{frame:?}");
            assert_eq!(frame.matches("2026").count(), 2, "{frame:?}");
            for clear in CLEARS {
                assert!(!frame.contains(clear), "{frame:?}");
            }
            // What stands is not sent again.
            assert!(!frame.contains("loss"), "{frame:?}");
            assert!(frame.len() < 80, "{} bytes: {frame:?}", frame.len());
        }
        let same = draw(49);
        assert!(same[0].len() < 48, "nothing has changed: {same:?}");
    }
}
