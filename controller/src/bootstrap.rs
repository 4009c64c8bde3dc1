//! Puts the agent on a box and starts it, over one ssh connection: look, upload only what is missing, connect.
//!
//! [`binary`] finds the agent to upload, [`onstart`] is what the box runs by itself at every start.

mod binary;
mod onstart;

use std::{sync::Arc, time::Duration};

use tracing::{debug, info};

pub use binary::{AgentBinary, BinaryError};
pub use onstart::{ONSTART_LIMIT_CHARS, OnstartError, onstart};

use crate::{
    agent_client::{AgentClient, AgentError, AgentStatus, BridgeDial},
    fault,
    tunnel::{Lane, Told, Tunnel, TunnelError, shell_word},
};

/// Free disk below which nothing is uploaded: the agent, its journal and a margin.
const FREE_LIMIT_BYTES: u64 = 64 << 20;
/// The agent is a few megabytes; a slow uplink gets ten minutes for it.
const UPLOAD_LIMIT: Duration = Duration::from_secs(600);
/// From the start of a daemon to its first answer.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How often a running daemon of another build is asked to make room.
const REPLACE_TRIES: u32 = 3;
/// Longest path of a Unix socket that we use anywhere.
const SOCKET_LIMIT_BYTES: usize = 90;

/// What a look at the box showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoxFacts {
    /// `uname -m`.
    pub machine: String,
    /// Home directory, absolute.
    pub home: String,
    /// Free bytes there.
    pub free_bytes: u64,
    /// tmux is installed.
    pub tmux: bool,
    /// rsync is installed.
    pub rsync: bool,
    /// Hashes of the agents that are there.
    pub agents: Vec<String>,
    /// A socket is there; whether anybody answers is another question.
    pub socket: bool,
}

/// A box whose agent answers.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Client of its agent.
    pub client: AgentClient,
    /// What the agent said first.
    pub status: AgentStatus,
    /// What was found on the box; `None` when its shell cannot be used and a running agent was reached without it.
    pub facts: Option<BoxFacts>,
    /// The binary was uploaded.
    pub uploaded: bool,
    /// A daemon of another build made room.
    pub replaced: bool,
}

/// Who is at the other end of the link, as the agent hears from the first word on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seat {
    /// A person, who could answer.
    Person,
    /// A program that acts alone.
    Program,
    /// Nobody: somebody only looks, and is gone again.
    Passing,
}

impl Seat {
    fn client(self, dial: BridgeDial) -> AgentClient {
        let client = AgentClient::new(Arc::new(dial));
        match self {
            Self::Person => client,
            Self::Program => client.unattended(),
            Self::Passing => client.in_passing(),
        }
    }
}

/// Why there is no agent on the box.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The connection.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// The agent.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The box gave an answer that makes no sense.
    #[error("the box could not be looked at: {0}")]
    Probe(String),
    /// Our agent does not run there.
    #[error("the box is a {machine} machine and this agent is built for {built_for}")]
    Machine {
        /// The box's.
        machine: String,
        /// The agent's.
        built_for: String,
    },
    /// No room.
    #[error("the box has {free_mib} MiB of free disk in {home}; the agent needs {} MiB", FREE_LIMIT_BYTES >> 20)]
    Disk {
        /// Free there.
        free_mib: u64,
        /// Where.
        home: String,
    },
    /// A Unix socket's path does not fit.
    #[error("the agent's socket {path} would have a path of {} bytes, over the limit of {SOCKET_LIMIT_BYTES}", path.len())]
    SocketPath {
        /// The path.
        path: String,
    },
    /// The binary did not arrive whole.
    #[error("the agent could not be uploaded: {0}")]
    Upload(String),
    /// A daemon of another build does not make room.
    #[error(
        "an agent of build {running} still runs after it was asked {REPLACE_TRIES} times to make room for {wanted}"
    )]
    Stubborn {
        /// Its build.
        running: String,
        /// Ours.
        wanted: String,
    },
}

/// Looks at the box, uploads `agent` unless its hash is there, and connects; the bridge starts the daemon.
///
/// A daemon of another build makes room, unless it is newer than ours; sessions are not touched by that. Where the login
/// shell cannot be used, an agent that already runs is reached without it. `told` hears how far an upload is.
///
/// # Errors
/// See [`BootstrapError`]; nothing half-done is left that a repetition would trip over.
pub async fn bootstrap(
    tunnel: &Tunnel,
    agent: &AgentBinary,
    seat: Seat,
    told: Told<'_>,
) -> Result<Ready, BootstrapError> {
    let facts = match probe(tunnel).await {
        Ok(facts) => facts,
        Err(BootstrapError::Tunnel(silent @ TunnelError::Silent { .. })) => {
            return without_shell(tunnel, seat, silent).await;
        }
        Err(err) => return Err(err),
    };
    let directory = format!("{}/.spotter", facts.home);
    let socket = format!("{directory}/agent.sock");
    if socket.len() > SOCKET_LIMIT_BYTES {
        return Err(BootstrapError::SocketPath { path: socket });
    }
    if facts.machine != agent.machine() {
        let (machine, built_for) = (facts.machine, agent.machine().to_owned());
        return Err(BootstrapError::Machine { machine, built_for });
    }
    let missing = !facts.agents.iter().any(|hash| hash == agent.hash());
    if missing {
        if facts.free_bytes < FREE_LIMIT_BYTES {
            return Err(BootstrapError::Disk {
                free_mib: facts.free_bytes >> 20,
                home: facts.home,
            });
        }
        fault::point("agent.upload.before");
        upload(tunnel, agent, &directory, told).await?;
        fault::point("agent.upload.after");
        info!(
            hash = agent.hash(),
            bytes = agent.bytes().len(),
            "agent uploaded"
        );
    }
    let path = format!("{directory}/bin/agent-{}", agent.hash());
    let (client, status, replaced) = connect(tunnel, agent, seat, path, socket).await?;
    fault::point("agent.daemon.after");
    Ok(Ready {
        client,
        status,
        facts: Some(facts),
        uploaded: missing,
        replaced,
    })
}

async fn connect(
    tunnel: &Tunnel,
    agent: &AgentBinary,
    seat: Seat,
    path: String,
    socket: String,
) -> Result<(AgentClient, AgentStatus, bool), BootstrapError> {
    let client = seat.client(BridgeDial {
        tunnel: tunnel.clone(),
        agent: path,
        socket,
    });
    let mut replaced = false;
    let mut running = String::new();
    for _ in 0..REPLACE_TRIES {
        let status = client.status(START_LIMIT).await?;
        if status.build == agent.hash() || is_newer(&status.version, env!("CARGO_PKG_VERSION")) {
            return Ok((client, status, replaced));
        }
        debug!(
            running = status.build,
            wanted = agent.hash(),
            "an agent of another build makes room"
        );
        running = status.build;
        client.shutdown(false).await?;
        replaced = true;
    }
    let status = client.status(START_LIMIT).await?;
    if status.build == agent.hash() {
        return Ok((client, status, replaced));
    }
    Err(BootstrapError::Stubborn {
        running,
        wanted: agent.hash().to_owned(),
    })
}

/// Connects to the agent that is on the box already, whichever it is; for verbs that only look.
///
/// # Errors
/// When the box cannot be reached. Whether an agent answers shows with the first call.
pub async fn reach(tunnel: &Tunnel) -> Result<AgentClient, BootstrapError> {
    reach_as(tunnel, Seat::Person).await
}

/// The same for a glance: to the agent nobody is there by this connection. It has answered when this returns.
///
/// # Errors
/// When the box cannot be reached, or its agent does not answer.
pub async fn look(tunnel: &Tunnel) -> Result<AgentClient, BootstrapError> {
    let client = reach_as(tunnel, Seat::Passing).await?;
    client.status(START_LIMIT).await?;
    Ok(client)
}

async fn reach_as(tunnel: &Tunnel, seat: Seat) -> Result<AgentClient, BootstrapError> {
    let home = match tunnel.exec("printf %s \"$HOME\"", &[]).await {
        Ok(output) => String::from_utf8(output.stdout)
            .ok()
            .filter(|home| home.starts_with('/')),
        Err(silent @ TunnelError::Silent { .. }) => {
            return Ok(without_shell(tunnel, seat, silent).await?.client);
        }
        Err(err) => return Err(err.into()),
    };
    let home = home.ok_or_else(|| BootstrapError::Probe("it has no home directory".to_owned()))?;
    let (agent, socket) = (
        format!("{home}/.spotter/bin/agent"),
        format!("{home}/.spotter/agent.sock"),
    );
    Ok(seat.client(BridgeDial {
        tunnel: tunnel.clone(),
        agent,
        socket,
    }))
}

/// The last way in: a daemon that runs, where images for root put it.
async fn without_shell(
    tunnel: &Tunnel,
    seat: Seat,
    silent: TunnelError,
) -> Result<Ready, BootstrapError> {
    let home = match tunnel.target().user.as_str() {
        "root" => "/root".to_owned(),
        user => format!("/home/{user}"),
    };
    let (agent, socket) = (
        format!("{home}/.spotter/bin/agent"),
        format!("{home}/.spotter/agent.sock"),
    );
    let client = seat.client(BridgeDial {
        tunnel: tunnel.clone(),
        agent,
        socket,
    });
    // What keeps us out is the shell: that is what a person can repair.
    let status = client.status(START_LIMIT).await.map_err(|_| silent)?;
    Ok(Ready {
        client,
        status,
        facts: None,
        uploaded: false,
        replaced: false,
    })
}

/// Whether `version` comes after `than`. What is no version is not newer.
fn is_newer(version: &str, than: &str) -> bool {
    let parse = |text: &str| -> Option<[u64; 3]> {
        let core = text.split(['-', '+']).next()?;
        let mut parts = core.split('.').map(|part| part.parse().ok());
        Some([parts.next()??, parts.next()??, parts.next()??])
    };
    matches!((parse(version), parse(than)), (Some(version), Some(than)) if version > than)
}

/// One look that tells everything which bootstrap must know. Only POSIX tools; each line is `key=value`.
const PROBE: &str = r#"
PATH=$PATH:/usr/local/bin:/usr/bin:/bin
mkdir -p "$HOME/.spotter/bin" && chmod 700 "$HOME/.spotter" "$HOME/.spotter/bin" || exit 1
echo "machine=$(uname -m)"
echo "home=$HOME"
df -Pk "$HOME" | { read -r _; read -r _ _ _ free _; echo "free_kib=$free"; }
command -v tmux >/dev/null && echo tmux=yes
command -v rsync >/dev/null && echo rsync=yes
[ -S "$HOME/.spotter/agent.sock" ] && echo socket=yes
for file in "$HOME"/.spotter/bin/agent-*; do [ -x "$file" ] && echo "agent=${file##*/agent-}"; done
echo end=yes
"#;

async fn probe(tunnel: &Tunnel) -> Result<BoxFacts, BootstrapError> {
    let output = tunnel.exec(PROBE, &[]).await?;
    if !output.ok() {
        return Err(BootstrapError::Probe(format!(
            "its shell ended with code {}: {}",
            output.code, output.words
        )));
    }
    parse_probe(&output.stdout)
        .ok_or_else(|| BootstrapError::Probe(format!("unexpected answer: {}", output.words)))
}

fn parse_probe(answer: &[u8]) -> Option<BoxFacts> {
    let text = std::str::from_utf8(answer).ok()?;
    let all = |key: &str| -> Vec<&str> {
        text.lines()
            .filter_map(|line| line.split_once('='))
            .filter(|(k, _)| *k == key)
            .map(|(_, v)| v)
            .collect()
    };
    let one = |key: &str| all(key).first().copied();
    one("end")?;
    let home = one("home")?;
    // It becomes part of commands and paths.
    if !home.starts_with('/') || home.chars().any(char::is_control) {
        return None;
    }
    let is_hash =
        |text: &&str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    Some(BoxFacts {
        machine: one("machine")?.to_owned(),
        home: home.trim_end_matches('/').to_owned(),
        free_bytes: one("free_kib")?.parse::<u64>().ok()?.saturating_mul(1024),
        tmux: one("tmux").is_some(),
        rsync: one("rsync").is_some(),
        agents: all("agent")
            .into_iter()
            .filter(is_hash)
            .map(str::to_owned)
            .collect(),
        socket: one("socket").is_some(),
    })
}

/// Receives the binary under a name that nobody runs, and renames it only when it is whole: by its SHA-256 where the box has a
/// tool for that, else by its size and because it answers for itself.
const RECEIVE: &str = r#"
PATH=$PATH:/usr/local/bin:/usr/bin:/bin
cd "$1" || exit 1
find . -name ".agent-*.part" -mmin +60 -exec rm -f {} + 2>/dev/null
part=.agent-$$.part
trap 'rm -f "$part"' EXIT
# When the connection broke, a message of ours meets a closed pipe: that must not end us before the trap.
trap 'exit 1' HUP INT TERM PIPE
cat >"$part" || exit 1
if command -v sha256sum >/dev/null; then sum=$(sha256sum <"$part")
elif command -v openssl >/dev/null; then sum=$(openssl dgst -sha256 -r <"$part")
else sum=none; fi
sum=${sum%% *}
size=$(($(wc -c <"$part")))
[ "$size" = "$3" ] || { echo "$size of $3 bytes arrived" >&2; exit 3; }
[ "$sum" = none ] || [ "$sum" = "$4" ] || { echo "its hash is $sum, not $4" >&2; exit 3; }
chmod 500 "$part"
"./$part" --version >/dev/null || { echo "it does not run there" >&2; exit 4; }
mv -f "$part" "agent-$2" && ln -sfn "agent-$2" agent || exit 1
sync "agent-$2" 2>/dev/null || :
"#;

async fn upload(
    tunnel: &Tunnel,
    agent: &AgentBinary,
    directory: &str,
    told: Told<'_>,
) -> Result<(), BootstrapError> {
    let script = format!(
        "set -- {} {} {} {}\n{RECEIVE}",
        shell_word(&format!("{directory}/bin")),
        agent.hash(),
        agent.bytes().len(),
        agent.sha256(),
    );
    let output = tunnel
        .send_within(Lane::Control, &script, agent.bytes(), UPLOAD_LIMIT, told)
        .await?;
    if output.ok() {
        Ok(())
    } else {
        Err(BootstrapError::Upload(format!(
            "{} (code {})",
            output.words, output.code
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_at_a_box_is_read() {
        let answer = b"machine=x86_64\nhome=/root\nfree_kib=1048576\nrsync=yes\nagent=0123456789abcdef\nagent=*\nagent=../../x\nend=yes\n";
        let expected = BoxFacts {
            machine: "x86_64".to_owned(),
            home: "/root".to_owned(),
            free_bytes: 1 << 30,
            tmux: false,
            rsync: true,
            agents: vec!["0123456789abcdef".to_owned()],
            socket: false,
        };
        assert_eq!(parse_probe(answer), Some(expected));
    }

    #[test]
    fn half_an_answer_is_no_answer() {
        let check = |answer: &[u8]| {
            assert_eq!(
                parse_probe(answer),
                None,
                "{}",
                String::from_utf8_lossy(answer)
            )
        };
        check(b"");
        check(b"machine=x86_64\nhome=/root\nfree_kib=1\n");
        check(b"machine=x86_64\nhome=relative\nfree_kib=1\nend=yes\n");
        check(b"machine=x86_64\nhome=/root\nfree_kib=many\nend=yes\n");
        check(b"\xff\xfe");
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let check = |version, than, expected| {
            assert_eq!(is_newer(version, than), expected, "{version} {than}")
        };
        check("0.10.0", "0.9.9", true);
        check("0.1.0", "0.1.0", false);
        check("0.1.0", "0.1.1", false);
        check("1.0.0-rc1", "0.9.0", true);
        check("nonsense", "0.1.0", false);
    }
}
