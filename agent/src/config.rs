//! What was typed (`Flags`) becomes what was decided (`Home`). The only file of the agent that reads its environment.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use clap::{Parser, Subcommand};

/// Longest path of a Unix socket, bytes: the kernel's 108 less room for the temporary names that ssh adds.
pub const SOCKET_PATH_LIMIT_BYTES: usize = 90;

/// The half of spotter that lives on the rented box
#[derive(Debug, Parser)]
#[command(name = "spotter-agent", version)]
pub struct Flags {
    /// Directory of everything the agent keeps [default: $HOME/.spotter]
    #[arg(long, global = true)]
    pub home: Option<PathBuf>,
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// What the program can be on a box.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Watch the box and answer the controller, until told to stop
    Daemon {
        /// Start in the background, in a session of its own, and return
        #[arg(long)]
        detach: bool,
    },
    /// Connect standard input and output to the daemon, starting it if need be
    Bridge {
        /// The daemon's socket
        socket: PathBuf,
        /// Word that the handshake line repeats
        nonce: String,
    },
    /// Own one command: its terminal, its log and the record of its end
    Shim {
        /// Directory of the session
        dir: PathBuf,
        /// Command to run instead of the one that the session's `spec.json` names
        #[arg(last = true)]
        command: Vec<OsString>,
    },
}

/// The directory of everything the agent keeps, and what lies where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home(PathBuf);

/// Why the home directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Neither `--home` nor `HOME` says where.
    #[error("no home directory: HOME is not set; name one with --home")]
    Unknown,
    /// A socket in it would have a path that the kernel refuses.
    #[error(
        "{path}: {length} bytes are too long for a socket's path, the limit is {SOCKET_PATH_LIMIT_BYTES}: choose a shorter home directory"
    )]
    TooLong {
        /// The socket's path.
        path: String,
        /// Its length in bytes.
        length: usize,
    },
    /// It could not be made or entered.
    #[error("home directory {path} cannot be used")]
    Io {
        /// The directory.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl Home {
    /// Decides on the home directory: the flag, else `$HOME/.spotter`; makes it, for its owner only.
    pub fn decide(flag: Option<&Path>) -> Result<Self, HomeError> {
        let chosen = match flag {
            Some(dir) => dir.to_owned(),
            None => user_home().ok_or(HomeError::Unknown)?.join(".spotter"),
        };
        let io = |source| HomeError::Io {
            path: chosen.display().to_string(),
            source,
        };
        if !chosen.is_dir() {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&chosen)
                .map_err(io)?;
        }
        let home = Self(std::path::absolute(&chosen).map_err(io)?);
        for socket in [home.socket(), home.tmux_socket()] {
            check_socket_path(&socket)?;
        }
        Ok(home)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.0.join("agent.sock")
    }

    /// Locked for as long as a daemon lives; holds its process id, for people.
    pub fn daemon_lock(&self) -> PathBuf {
        self.0.join("daemon.lock")
    }

    /// What the daemon has to say; bounded.
    pub fn daemon_log(&self) -> PathBuf {
        self.0.join("daemon.log")
    }

    /// The container's environment as `onstart` saved it, NUL-separated.
    pub fn container_env(&self) -> PathBuf {
        self.0.join("container.env")
    }

    /// What Configure said.
    pub fn run_file(&self) -> PathBuf {
        self.0.join("run.json")
    }

    /// Segments of the journal.
    pub fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }

    /// One directory per session.
    pub fn sessions(&self) -> PathBuf {
        self.0.join("sessions")
    }

    /// The upload journal.
    pub fn backup(&self) -> PathBuf {
        self.0.join("backup")
    }

    /// Socket of our own tmux server.
    pub fn tmux_socket(&self) -> PathBuf {
        self.0.join("tmux.sock")
    }

    /// Exists once a session started since the container started; disarms the dead-man's switch.
    pub fn started(&self) -> PathBuf {
        self.0.join("started")
    }

    /// The program that a shim starts as daemon: the newest agent by its link, else the one that runs.
    pub fn program(&self) -> io::Result<PathBuf> {
        let link = self.0.join("bin/agent");
        if link.exists() {
            Ok(link)
        } else {
            std::env::current_exe()
        }
    }
}

/// Refuses a socket path that the kernel, or ssh on top of it, could not take.
pub fn check_socket_path(path: &Path) -> Result<(), HomeError> {
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_LIMIT_BYTES {
        return Err(HomeError::TooLong {
            path: path.display().to_string(),
            length,
        });
    }
    Ok(())
}

/// The user's home directory; relative working directories begin there.
pub fn user_home() -> Option<PathBuf> {
    std::env::var_os("HOME")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from)
}

/// Where programs are looked for; a fixed list where `PATH` is not set at all.
pub fn search_path() -> OsString {
    std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into())
}

/// What `PATH` is where nobody set one.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Which log lines are kept, in the syntax of `tracing`; from `SPOTTER_LOG`.
pub fn log_filter() -> String {
    std::env::var("SPOTTER_LOG").unwrap_or_else(|_| "info".to_owned())
}

/// The first file called `name` along `path` that may be executed.
pub fn find_program(name: &str, path: &OsString) -> Option<PathBuf> {
    std::env::split_paths(path)
        .map(|dir| dir.join(name))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use nix::unistd::{AccessFlags, access};
    path.is_file() && access(path, AccessFlags::X_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_path_of_ninety_bytes_is_taken_and_one_more_is_refused() {
        let fits = PathBuf::from(format!("/{}", "x".repeat(SOCKET_PATH_LIMIT_BYTES - 1)));
        assert!(check_socket_path(&fits).is_ok());
        let err = check_socket_path(&PathBuf::from(format!("{}y", fits.display()))).unwrap_err();
        assert!(err.to_string().contains("91 bytes are too long"), "{err}");
    }

    #[test]
    fn the_command_line_of_the_brief_parses() {
        Flags::try_parse_from(["spotter-agent", "daemon"]).unwrap();
        Flags::try_parse_from(["spotter-agent", "bridge", "/h/agent.sock", "abc"]).unwrap();
        let flags = Flags::try_parse_from([
            "spotter-agent",
            "shim",
            "/d",
            "--home",
            "/h",
            "--",
            "sh",
            "-c",
            "x",
        ])
        .unwrap();
        let Verb::Shim { command, .. } = flags.verb else {
            panic!("not a shim")
        };
        assert_eq!(command, ["sh", "-c", "x"]);
        assert_eq!(flags.home, Some(PathBuf::from("/h")));
    }
}
