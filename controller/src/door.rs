//! The way to the user's own hosts over ssh: the lock that keeps two controllers apart, and what is left when a run is over.
//!
//! Everything of ours on a host is `~/.spotter` and the lock `~/.spotter.lock`; the run's working directory is the user's and stays.

use std::{
    collections::HashMap,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use async_trait::async_trait;

use crate::{
    bootstrap,
    provider::{
        SshAddress,
        hosts::{self, Door, Holder},
    },
    tunnel::{FailureKind, Patience, SshHome, Tunnel, TunnelError, shell_word},
};

/// One try to connect.
const CONNECT: Duration = Duration::from_secs(12);
/// What runs under a session that is ended may save something.
const GRACE: Duration = Duration::from_secs(10);
/// Longest time for the agent's own end; then its processes are killed.
const AGENT_LIMIT: Duration = Duration::from_secs(25);

/// Opens spotter's ssh directory, when the first host is asked for.
pub type OpenSsh = Box<dyn Fn() -> Result<SshHome, TunnelError> + Send + Sync>;

/// Hosts reached by ssh, with connections that are used again.
pub struct SshDoor {
    open: OpenSsh,
    ssh: OnceLock<SshHome>,
    tunnels: Mutex<HashMap<u64, Tunnel>>,
}

/// POSIX sh. `held`: the lock is there, and its agent runs, was there lately (it takes minutes to arrive, and a host some to start anew), or
/// was ended while the run keeps the host.
const LOCK: &str = r#"
PATH=$PATH:/usr/local/bin:/usr/bin:/bin
H=$(cd "$HOME" && pwd -P) || exit 1
L=$H/.spotter.lock
B=$(cd "$H/.spotter/bin" 2>/dev/null && pwd -P) || B=$H/.spotter/bin
M=$(uname -n)
ours() { case $(readlink "$1/exe" 2>/dev/null) in "$B"/*) return 0;; esac; return 1; }
alive() { for p in /proc/[0-9]*; do ours "$p" && return 0; done; return 1; }
owner() {
label= since= by= machine=
[ ! -r "$L/owner" ] || { read -r label; read -r since; read -r by; read -r machine; } <"$L/owner"
case $since in ''|*[!0-9]*) since=$(stat -c %Y "$L" 2>/dev/null || echo 0);; esac
}
held() {
# An agent without a lock was put there in another way, and is somebody's.
if [ ! -d "$L" ]; then label= since=0 by=; alive; return; fi
owner
[ -e "$L/kept" ] && return 0
# A home may be shared, and what runs on another machine is not seen from here.
[ -z "$machine" ] || [ "$machine" = "$M" ] || return 0
[ $(($(date +%s) - since)) -ge 600 ] || return 0
# The agent writes its telemetry all the time; going through all processes costs more.
[ -z "$(find "$L" "$H/.spotter/" -maxdepth 2 -mmin -10 2>/dev/null)" ] || return 0
alive
}
tell() { printf 'label=%s\nsince=%s\nby=%s\nend=held\n' "$label" "$since" "$by"; exit 0; }
"#;

/// Tells who holds it.
const LOOK: &str = "held && tell\necho end=free\n";

/// Takes it: making a directory is done by one of several. A stale one is moved away first, which one of several does, too.
const TAKE: &str = r#"
umask 077
# The kernel's boot tells a person whether the machine started anew since.
sign() {
boot=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)
printf '%s\n' "$1" "$(date +%s)" "$2" "$M" "$boot" >"$L/owner.new" && mv -f "$L/owner.new" "$L/owner"
}
# Since now, so that it is held until the agent is there.
again() { sign "$1" "$2" || exit 1; taken; }
# The job gets the environment of a login, as a container's gets that of its first process. A rented box that its user made a host of is
# not ours to stop.
taken() {
rm -f "$L/kept"
mkdir -p "$H/.spotter/bin" || exit 1
if env -u SSH_CONNECTION -u SSH_CLIENT -u SSH_TTY -u SSH_ORIGINAL_COMMAND -u CONTAINER_API_KEY env -0 >"$H/.spotter/env.new" 2>/dev/null
then mv -f "$H/.spotter/env.new" "$H/.spotter/container.env"; else rm -f "$H/.spotter/env.new"; fi
echo end=taken; exit 0
}
for try in 1 2 3; do
if [ ! -d "$L" ] && held; then tell; fi
if mkdir "$L" 2>/dev/null; then
sign "$1" "$2" || { rm -rf "$L"; exit 1; }
taken
fi
if held; then [ "$label" = "$1" ] || tell; again "$1" "$2"; fi
owner
[ "$label" != "$1" ] || again "$1" "$2"
mv "$L" "$L.$$" 2>/dev/null && rm -rf "$L.$$" "$H/.spotter"
done
echo "the lock in $L cannot be taken" >&2
exit 1
"#;

/// Ends what runs, where the label is ours.
const QUIET: &str = r#"
owner
[ ! -d "$L" ] || [ -z "$label" ] || [ "$label" = "$1" ] || { echo end=others; exit 0; }
for signal in TERM KILL; do
alive || break
for p in /proc/[0-9]*; do ours "$p" && kill -"$signal" "${p#/proc/}" 2>/dev/null; done
n=0; while [ "$n" -lt 20 ] && alive; do sleep 0.2; n=$((n+1)); done
done
alive && { echo "processes of the agent do not end" >&2; exit 1; }
"#;

/// Keeps the host for its run, though no agent is there.
const KEEP: &str = "[ ! -d \"$L\" ] || : >\"$L/kept\"\necho end=quiet\n";

/// Removes what is ours.
const CLEAR: &str = "rm -rf \"$H/.spotter\" \"$L\" || exit 1\necho end=clear\n";

impl SshDoor {
    /// With spotter's own keys and sockets, and the user's known hosts.
    pub fn new(open: OpenSsh) -> Self {
        let (ssh, tunnels) = (OnceLock::new(), Mutex::default());
        Self { open, ssh, tunnels }
    }

    fn ssh(&self) -> Result<&SshHome, TunnelError> {
        match self.ssh.get() {
            Some(ssh) => Ok(ssh),
            None => {
                let opened = (self.open)()?;
                Ok(self.ssh.get_or_init(|| opened))
            }
        }
    }

    async fn tunnel(&self, at: &SshAddress) -> Result<Tunnel, TunnelError> {
        let number = hosts::number(at);
        let known = {
            let tunnels = self.tunnels.lock().unwrap_or_else(PoisonError::into_inner);
            tunnels.get(&number).cloned()
        };
        if let Some(tunnel) = known {
            return Ok(tunnel);
        }
        let target = self.ssh()?.target("host", number, vec![at.clone()]).await?;
        let tunnel = Tunnel::connect(target, Patience::known_box(CONNECT)).await?;
        let mut tunnels = self.tunnels.lock().unwrap_or_else(PoisonError::into_inner);
        tunnels.insert(number, tunnel.clone());
        Ok(tunnel)
    }

    /// Runs a part of the script; answers what it said, by key.
    async fn run(
        &self,
        at: &SshAddress,
        part: &str,
        words: &[&str],
    ) -> Result<HashMap<String, String>, String> {
        let tunnel = self.tunnel(at).await.map_err(|err| why(at, &err))?;
        let words: Vec<String> = words.iter().map(|word| shell_word(word)).collect();
        let script = format!("set -- {}\n{LOCK}{part}", words.join(" "));
        let output = tunnel
            .exec(&script, &[])
            .await
            .map_err(|err| why(at, &err))?;
        if !output.ok() {
            return Err(format!("{} (code {})", output.words, output.code));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Ok(pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect())
    }

    /// The agent ends its sessions and itself, as far as it is there and answers.
    async fn end_agent(&self, at: &SshAddress) -> Result<(), String> {
        let tunnel = self.tunnel(at).await.map_err(|err| why(at, &err))?;
        let there = tunnel
            .exec(
                "test -S ~/.spotter/agent.sock && test -x ~/.spotter/bin/agent",
                &[],
            )
            .await
            .map_err(|err| why(at, &err))?;
        if !there.ok() {
            return Ok(());
        }
        let ended = tokio::time::timeout(AGENT_LIMIT, async {
            let client = bootstrap::reach(&tunnel)
                .await
                .map_err(|err| err.to_string())?;
            let sessions = client.sessions().await.map_err(|err| err.to_string())?;
            for session in sessions.iter().filter(|session| session.is_running()) {
                let ended = client.end_session(&session.name, GRACE).await;
                ended.map_err(|err| err.to_string())?;
            }
            client.shutdown(true).await.map_err(|err| err.to_string())
        });
        // What it did not do is done by force.
        match ended.await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => tracing::debug!(why, "the agent of a host did not end by itself"),
            Err(_) => tracing::debug!("the agent of a host did not end in time"),
        }
        Ok(())
    }

    /// Whether a label may be ended: nobody else holds the host.
    async fn is_others(&self, at: &SshAddress, label: &str) -> Result<bool, String> {
        let said = self.run(at, LOOK, &[]).await?;
        Ok(holder(&said).is_some_and(|holder| holder.label != label))
    }
}

fn holder(said: &HashMap<String, String>) -> Option<Holder> {
    let word = |key: &str| said.get(key).cloned().unwrap_or_default();
    (word("end") == "held").then(|| Holder {
        label: word("label"),
        since_s: word("since").parse().unwrap_or(0),
        by: word("by"),
    })
}

/// Why a host was not reached, with what to do about it.
fn why(at: &SshAddress, err: &TunnelError) -> String {
    match err.kind() {
        FailureKind::HostKey => format!(
            "your known hosts do not have its key, or another one: look at it and take it with `ssh -p {} {} true`",
            at.port, at.host
        ),
        FailureKind::Auth => format!(
            "it does not let you in: `ssh-copy-id -p {} {}`",
            at.port, at.host
        ),
        _ => err.to_string(),
    }
}

#[async_trait]
impl Door for SshDoor {
    async fn look(&self, at: &SshAddress) -> Result<Option<Holder>, String> {
        Ok(holder(&self.run(at, LOOK, &[]).await?))
    }

    async fn lock(&self, at: &SshAddress, label: &str) -> Result<Option<Holder>, String> {
        let by = nix::unistd::gethostname().unwrap_or_default();
        let by = by.to_string_lossy();
        Ok(holder(&self.run(at, TAKE, &[label, &by]).await?))
    }

    async fn quiet(&self, at: &SshAddress, label: &str) -> Result<(), String> {
        if self.is_others(at, label).await? {
            return Ok(());
        }
        self.end_agent(at).await?;
        let part = format!("{QUIET}{KEEP}");
        self.run(at, &part, &[label]).await.map(drop)
    }

    async fn clear(&self, at: &SshAddress, label: &str) -> Result<(), String> {
        if self.is_others(at, label).await? {
            return Ok(());
        }
        self.end_agent(at).await?;
        let part = format!("{QUIET}{CLEAR}");
        self.run(at, &part, &[label]).await.map(drop)
    }

    async fn answers(&self, at: &SshAddress) -> bool {
        match self.tunnel(at).await {
            Ok(tunnel) => tunnel.exec(":", &[]).await.is_ok(),
            Err(_) => false,
        }
    }
}
