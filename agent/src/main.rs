//! Reads flags and runs `daemon`, `bridge` or `shim`; nothing else.

use std::{io::Write, process::ExitCode};

use clap::Parser;
use spotter_agent::{
    bridge,
    config::{Flags, Home, Verb},
    daemon,
    sessions::shim,
};

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(err) => {
            // Nobody may be listening any more, and then the exit code has to do.
            let _nobody_listens = writeln!(std::io::stderr(), "spotter-agent: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> anyhow::Result<u8> {
    match &flags.verb {
        Verb::Daemon { detach: false } => daemon::run(&Home::decide(flags.home.as_deref())?)?,
        Verb::Daemon { detach: true } => {
            bridge::start_daemon(&Home::decide(flags.home.as_deref())?)?
        }
        Verb::Bridge { socket, nonce } => bridge::run(socket, nonce)?,
        Verb::Shim { dir, command } => {
            let code = shim::run(&Home::decide(flags.home.as_deref())?, dir, command)?;
            return Ok(u8::try_from(code).unwrap_or(u8::MAX));
        }
    }
    Ok(0)
}
