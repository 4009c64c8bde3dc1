//! What was typed (`Flags`) becomes what was decided (`Home`). The only file of the agent that reads its environment.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// Longest path of a Unix socket, bytes: the kernel's 108 less room for the temporary names that ssh adds.
pub const SOCKET_PATH_LIMIT_BYTES: usize = 90;

/// What `--help` says.
pub const HELP: &str = "\
The half of spotter that lives on the rented box

Usage: spotter-agent [--home DIR] daemon [--detach]        watch the box and answer the controller
       spotter-agent [--home DIR] bridge SOCKET NONCE      join standard input and output to the daemon
       spotter-agent [--home DIR] shim DIR [-- COMMAND...] own one command: its terminal, log and end
       spotter-agent --help | --version

DIR of --home holds everything that the agent keeps [default: $HOME/.spotter]
";

/// What was typed. Read by a small parser: the usual one would be a fortieth of what travels to every box.
#[derive(Debug, PartialEq, Eq)]
pub struct Flags {
    /// Directory of everything the agent keeps; `None`: `$HOME/.spotter`.
    pub home: Option<PathBuf>,
    /// What to do.
    pub verb: Verb,
}

/// What the program can be on a box.
#[derive(Debug, PartialEq, Eq)]
pub enum Verb {
    /// Watch the box and answer the controller, until told to stop.
    Daemon {
        /// Start in the background, in a session of its own, and return.
        detach: bool,
    },
    /// Connect standard input and output to the daemon, starting it if need be.
    Bridge {
        /// The daemon's socket.
        socket: PathBuf,
        /// Word that the handshake line repeats.
        nonce: String,
    },
    /// Own one command: its terminal, its log and the record of its end.
    Shim {
        /// Directory of the session.
        dir: PathBuf,
        /// Command to run instead of the one that the session's `spec.json` names; empty: that one.
        command: Vec<OsString>,
    },
    /// Say what can be typed.
    Help,
    /// Say which version this is.
    Version,
}

impl Flags {
    /// Reads the command line.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, lexopt::Error> {
        use lexopt::prelude::*;

        let mut parser = lexopt::Parser::from_iter(arguments);
        let (mut home, mut verb, mut detach) = (None, None::<String>, false);
        let mut values = Vec::new();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("home") => home = Some(parser.value()?.into()),
                Long("detach") if verb.as_deref() == Some("daemon") => detach = true,
                Long("help") | Short('h') => {
                    return Ok(Self {
                        home,
                        verb: Verb::Help,
                    });
                }
                Long("version") | Short('V') => {
                    return Ok(Self {
                        home,
                        verb: Verb::Version,
                    });
                }
                Value(name) if verb.is_none() => verb = Some(name.string()?),
                Value(value) => values.push(value),
                other => return Err(other.unexpected()),
            }
        }
        let name = verb.ok_or("say what to do: daemon, bridge or shim")?;
        let mut values = values.into_iter();
        let mut next = |what: &str| values.next().ok_or(format!("{name} needs {what}"));
        let verb = match name.as_str() {
            "daemon" => Verb::Daemon { detach },
            "bridge" => Verb::Bridge {
                socket: next("the daemon's socket")?.into(),
                nonce: next("a nonce")?.string()?,
            },
            "shim" => Verb::Shim {
                dir: next("the session's directory")?.into(),
                command: values.by_ref().collect(),
            },
            other => return Err(format!("there is no verb {other}").into()),
        };
        match values.next() {
            Some(left) => Err(Value(left).unexpected()),
            None => Ok(Self { home, verb }),
        }
    }
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

    /// Bucket keys, where the user chose that the box keeps them.
    pub fn keys(&self) -> PathBuf {
        self.0.join("keys.json")
    }

    /// Why the training is to end, once that is decided.
    pub fn ending_file(&self) -> PathBuf {
        self.0.join("ending.json")
    }

    /// Which instance answered to its own key in preflight.
    pub fn key_proved(&self) -> PathBuf {
        self.0.join("key-proved")
    }

    /// A training that is being started again after a restart of the container.
    pub fn restart_file(&self) -> PathBuf {
        self.0.join("restart.json")
    }

    /// When a daemon was told to end by its container.
    pub fn terminated_file(&self) -> PathBuf {
        self.0.join("terminated")
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

/// Time between two samples: a second, or less for whoever measures what samples cost and says in `SPOTTER_SAMPLES_PER_S` how many he
/// wants, 1 to 10.
pub fn sample_interval() -> Duration {
    let wanted = std::env::var("SPOTTER_SAMPLES_PER_S").ok();
    interval_of(wanted.as_deref())
}

fn interval_of(samples_per_s: Option<&str>) -> Duration {
    let wanted = samples_per_s.and_then(|wanted| wanted.parse::<u32>().ok());
    Duration::from_secs(1) / wanted.unwrap_or(1).clamp(1, 10)
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

    fn parse(line: &str) -> Result<Flags, String> {
        let words = std::iter::once("spotter-agent").chain(line.split_whitespace());
        Flags::parse(words.map(OsString::from)).map_err(|err| err.to_string())
    }

    #[test]
    fn the_command_line_is_read_and_what_is_wrong_with_it_is_named() {
        let home = Some(PathBuf::from("/h"));
        let daemon = Verb::Daemon { detach: true };
        assert_eq!(
            parse("--home /h daemon --detach").unwrap(),
            Flags {
                home: home.clone(),
                verb: daemon
            }
        );
        assert_eq!(parse("daemon --home /h").unwrap().home, home);
        let shim = |command: &[&str]| Verb::Shim {
            dir: "/d".into(),
            command: command.iter().map(OsString::from).collect(),
        };
        assert_eq!(
            parse("shim /d --home /h -- sh --help").unwrap(),
            Flags {
                home,
                verb: shim(&["sh", "--help"])
            }
        );
        assert_eq!(parse("shim /d").unwrap().verb, shim(&[]));
        assert_eq!(parse("--version").unwrap().verb, Verb::Version);
        for (line, problem) in [
            ("", "say what to do: daemon, bridge or shim"),
            ("fly", "there is no verb fly"),
            ("bridge /s", "bridge needs a nonce"),
            ("bridge /s n more", "unexpected argument \"more\""),
            ("daemon --fast", "invalid option '--fast'"),
        ] {
            assert_eq!(parse(line).unwrap_err(), problem, "{line}");
        }
    }

    #[test]
    fn a_box_is_sampled_once_a_second_unless_more_is_wanted_and_never_more_than_ten_times() {
        for (wanted, ms) in [
            (None, 1000),
            (Some("1"), 1000),
            (Some("10"), 100),
            (Some("0"), 1000),
            (Some("99"), 100),
            (Some("often"), 1000),
        ] {
            assert_eq!(interval_of(wanted), Duration::from_millis(ms), "{wanted:?}");
        }
    }

    #[test]
    fn a_socket_path_of_ninety_bytes_is_taken_and_one_more_is_refused() {
        let fits = PathBuf::from(format!("/{}", "x".repeat(SOCKET_PATH_LIMIT_BYTES - 1)));
        assert!(check_socket_path(&fits).is_ok());
        let err = check_socket_path(&PathBuf::from(format!("{}y", fits.display()))).unwrap_err();
        assert!(err.to_string().contains("91 bytes are too long"), "{err}");
    }
}
