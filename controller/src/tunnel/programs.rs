//! The programs of OpenSSH: started so that their words are ours to read, or become this process.

use std::{ffi::OsString, os::unix::process::CommandExt, path::Path, process::Stdio};

use tokio::process::Command;

use super::{SshTarget, TunnelError, last_words};
use crate::provider::SshAddress;

/// Turns this process into an interactive ssh to the box; with a command, ssh runs that. Returns only when it could not.
///
/// # Errors
/// When ssh cannot be started.
pub fn become_ssh(target: &SshTarget, terminal: bool, command: Option<&str>) -> TunnelError {
    match person_words(target, terminal, command) {
        Ok(words) => no_ssh(
            std::process::Command::new(&words[0])
                .args(&words[1..])
                .exec(),
        ),
        Err(err) => err,
    }
}

/// The command line of an ssh for a person, program first.
pub fn person_words(
    target: &SshTarget,
    terminal: bool,
    command: Option<&str>,
) -> Result<Vec<OsString>, TunnelError> {
    let Some(address) = target.addresses.first() else {
        let nothing = std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "the provider gave no address",
        );
        return Err(TunnelError::local(
            format!("{} cannot be reached by ssh", target.alias),
            nothing,
        ));
    };
    let mut words: Vec<OsString> = vec!["ssh".into(), "-F".into(), target.config.clone().into()];
    // A person sits there: ssh may ask for a passphrase and should say why it ends.
    words.extend(["-o", "BatchMode=no", "-o", "LogLevel=INFO"].map(OsString::from));
    if terminal {
        words.push("-t".into());
    }
    words.extend(["-p".into(), address.port.to_string().into()]);
    words.push(destination(address).into());
    words.extend(command.map(OsString::from));
    Ok(words)
}

pub(super) fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    // Its messages are read by us; Ctrl-C is for us, not for it.
    command.env("LC_ALL", "C").process_group(0);
    command
}

pub(super) async fn generate_key(path: &Path) -> Result<(), TunnelError> {
    let mut command = program("ssh-keygen");
    command
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "spotter", "-f"])
        .arg(path)
        .stdin(Stdio::null());
    let done = command
        .output()
        .await
        .map_err(|err| TunnelError::local("ssh-keygen cannot be started", err))?;
    if done.status.success() {
        Ok(())
    } else {
        let words = last_words(&done.stderr);
        Err(TunnelError::local(
            "ssh-keygen could not make a key",
            std::io::Error::other(words),
        ))
    }
}

/// The host as ssh wants it; never taken for an option, whatever a provider sends.
pub(super) fn destination(address: &SshAddress) -> String {
    address.host.trim_start_matches('-').to_owned()
}

/// Whether there is an ssh at all: asked before a box is paid for that nothing else could reach.
///
/// # Errors
/// When the program is missing or does not start.
pub async fn prove_ssh() -> Result<(), TunnelError> {
    let mut command = program("ssh");
    command.arg("-V").stdin(Stdio::null());
    command.output().await.map(drop).map_err(no_ssh)
}

pub(super) fn no_ssh(err: std::io::Error) -> TunnelError {
    TunnelError::local("ssh cannot be started", err)
}
