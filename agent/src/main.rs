//! Reads flags and runs `daemon`, `bridge` or `shim`; nothing else.

use std::{io::Write, process::ExitCode};

use spotter_agent::{
    bridge,
    config::{Flags, HELP, Home, Verb},
    daemon,
    sessions::shim,
    wiping::Wiping,
};

/// Bucket keys come through buffers of libraries, which do not wipe them.
#[global_allocator]
static ALLOCATOR: Wiping = Wiping;

fn main() -> ExitCode {
    let flags = match Flags::parse(std::env::args_os()) {
        Ok(flags) => flags,
        Err(err) => {
            let _nobody_listens = writeln!(std::io::stderr(), "spotter-agent: {err}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match run(&flags) {
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
        Verb::Help => std::io::stdout().write_all(HELP.as_bytes())?,
        Verb::Version => writeln!(
            std::io::stdout(),
            "spotter-agent {}",
            env!("CARGO_PKG_VERSION")
        )?,
    }
    Ok(0)
}
