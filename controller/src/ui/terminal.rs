//! The terminal as a screen of cells with keys: what `spotter top` draws on. Whatever ends the program, the terminal is as it was.

use std::{
    io::{self, BufWriter, IsTerminal, Stdout, Write},
    panic,
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
use ratatui::{Terminal, backend::CrosstermBackend, buffer::Buffer, layout::Rect};

/// A frame is one write, so that a slow line shows none by halves.
const FRAME_BYTES: usize = 64 << 10;

/// The screen is open, and must be closed by whoever ends the program.
static OPEN: AtomicBool = AtomicBool::new(false);

/// The screen, until it is dropped.
pub struct TerminalScreen {
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
    events: EventStream,
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
        let mut out = BufWriter::with_capacity(FRAME_BYTES, io::stdout());
        let opened = execute!(out, EnterAlternateScreen, cursor::Hide)
            .and_then(|()| Terminal::new(CrosstermBackend::new(out)));
        match opened {
            Ok(terminal) => Ok(Self {
                terminal,
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
        queue!(self.terminal.backend_mut(), BeginSynchronizedUpdate)?;
        self.terminal.draw(|frame| {
            let area = frame.area();
            draw(frame.buffer_mut(), area);
        })?;
        execute!(self.terminal.backend_mut(), EndSynchronizedUpdate)
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
            self.terminal.backend_mut(),
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
