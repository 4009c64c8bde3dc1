//! The terminal that tmux shows to people: its keys, taken raw, and its screen, which never makes us wait.

use std::{
    fs::File,
    io::{self, IsTerminal},
    os::fd::{AsFd, BorrowedFd},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr},
};

/// The window's keys, taken raw: Ctrl-C belongs to the command, not to us. `None` without a window.
pub fn keyboard() -> anyhow::Result<Option<File>> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Ok(None);
    }
    let mut modes = tcgetattr(&stdin)?;
    cfmakeraw(&mut modes);
    tcsetattr(&stdin, SetArg::TCSANOW, &modes)?;
    set_nonblocking(stdin.as_fd())?;
    Ok(Some(stdin.as_fd().try_clone_to_owned()?.into()))
}

/// Where output is shown. `None` without a window.
pub fn screen() -> anyhow::Result<Option<File>> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return Ok(None);
    }
    set_nonblocking(stdout.as_fd())?;
    Ok(Some(stdout.as_fd().try_clone_to_owned()?.into()))
}

/// Reads and writes that would wait fail instead.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}
