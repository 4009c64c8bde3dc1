//! Files of ours that ssh reads: key, configuration, known hosts; and the directory of control sockets.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::fcntl::{Flock, FlockArg};

use super::{TunnelError, options};
use crate::provider::{SshAddress, hosts::is_host};

/// Longest control path: `sun_path` holds 104 bytes on macOS and ssh adds 17 for a temporary name.
pub const CONTROL_PATH_LIMIT_BYTES: usize = 80;

/// The `ssh` directory of spotter's home, and where sockets live.
#[derive(Debug, Clone)]
pub struct SshHome {
    pub(super) dir: PathBuf,
    pub(super) runtime: PathBuf,
    key: Option<PathBuf>,
    user_config: PathBuf,
}

/// How one instance is reached.
#[derive(Debug, Clone)]
pub struct SshTarget {
    /// `spotter-<provider>-<id>`: its name in known_hosts, and of the files that belong to it.
    pub alias: String,
    /// Addresses, the one that worked last first.
    pub addresses: Vec<SshAddress>,
    /// Login name.
    pub user: String,
    /// Private key.
    pub key: PathBuf,
    /// A host of the user's, with his own known hosts.
    pub own: bool,
    /// Further private keys to try.
    pub identities: Vec<PathBuf>,
    /// Pinned host keys of this instance.
    pub known_hosts: PathBuf,
    /// The file that ssh is given with `-F`.
    pub config: PathBuf,
    pub(super) runtime: Arc<Path>,
}

impl SshHome {
    /// `home` is spotter's home. `runtime_dir` is `$XDG_RUNTIME_DIR`, if set; `key` a private key that the user named;
    /// `user_config` the user's own `~/.ssh/config`, which may add to ours (a jump host, say) but not override it.
    ///
    /// # Errors
    /// When the directories cannot be made, or the one for sockets belongs to somebody else.
    pub fn open(
        home: &Path,
        runtime_dir: Option<&Path>,
        key: Option<PathBuf>,
        user_config: PathBuf,
    ) -> Result<SshHome, TunnelError> {
        let dir = home.join("ssh");
        for wanted in [
            &dir,
            &dir.join("known_hosts.d"),
            &dir.join("config.d"),
            &dir.join("answered"),
            &dir.join("runs"),
        ] {
            private_dir(wanted).map_err(|err| {
                TunnelError::local(format!("{} cannot be used", wanted.display()), err)
            })?;
        }
        let runtime = socket_dir(runtime_dir)?;
        sweep(&runtime);
        Ok(SshHome {
            dir,
            runtime,
            key,
            user_config,
        })
    }

    /// The private key: the user's, or our own, made at first use. Its public half lies beside it in `.pub`.
    ///
    /// # Errors
    /// When the named key does not exist, or `ssh-keygen` fails.
    pub async fn key(&self) -> Result<PathBuf, TunnelError> {
        if let Some(key) = &self.key {
            fs::metadata(key).map_err(|err| {
                TunnelError::local(format!("ssh key {} cannot be used", key.display()), err)
            })?;
            return Ok(key.clone());
        }
        let key = self.dir.join("id_ed25519");
        if !key.exists() {
            // Held while the key is made: two commands at once never leave halves that do not match.
            let _lock = lock(self.dir.join(".id_ed25519.lock"))
                .await
                .map_err(|err| {
                    TunnelError::local(format!("{} cannot be locked", self.dir.display()), err)
                })?;
            if !key.exists() {
                let aside = self.dir.join(".id_ed25519.new");
                for stale in [&aside, &public_half(&aside)] {
                    let _ = fs::remove_file(stale);
                }
                super::generate_key(&aside).await?;
                // The private half last: where it exists, its public half does too.
                fs::rename(public_half(&aside), public_half(&key))
                    .and_then(|()| fs::rename(&aside, &key))
                    .map_err(|err| {
                        TunnelError::local(
                            format!("ssh key {} could not be made", key.display()),
                            err,
                        )
                    })?;
            }
        }
        Ok(key)
    }

    /// The public key, one line as `authorized_keys` wants it: what a provider must know to let us in.
    ///
    /// # Errors
    /// As [`SshHome::key`]; and when the user's key has no readable `.pub` beside it.
    pub async fn public_key(&self) -> Result<String, TunnelError> {
        let path = public_half(&self.key().await?);
        let text = fs::read_to_string(&path).map_err(|err| {
            TunnelError::local(format!("public key {} cannot be read", path.display()), err)
        })?;
        Ok(text.trim().to_owned())
    }

    /// Describes an instance and writes the configuration that ssh gets for it. Of its addresses the one comes first that answered last:
    /// a person's ssh takes the first, and of many boxes only the market's proxy is reachable.
    ///
    /// # Errors
    /// As [`SshHome::key`]; and when the configuration cannot be written.
    pub async fn target(
        &self,
        provider: &str,
        id: u64,
        mut addresses: Vec<SshAddress>,
    ) -> Result<SshTarget, TunnelError> {
        let own = is_host(id);
        let alias = alias(provider, id);
        let answered = fs::read_to_string(self.answered(&alias)).unwrap_or_default();
        addresses.sort_by_key(|address| place(address) != answered);
        let key = self.key().await?;
        let beside = |name: &str| self.user_config.with_file_name(name);
        let target = SshTarget {
            known_hosts: match own {
                true => beside("known_hosts"),
                false => self.dir.join("known_hosts.d").join(&alias),
            },
            own,
            // With a key named, ssh does not look for the usual ones by itself.
            identities: ["id_ed25519", "id_ecdsa", "id_rsa"]
                .map(beside)
                .into_iter()
                .filter(|path| own && path.exists())
                .collect(),
            config: self.dir.join("config.d").join(&alias),
            alias,
            addresses,
            user: "root".to_owned(),
            key,
            runtime: Arc::from(self.runtime.as_path()),
        };
        let text = options::config_text(&target, &self.user_config);
        write_atomically(&target.config, &text)?;
        Ok(target)
    }

    /// Remembers by which of its addresses an instance was reached; answers it with that one first.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn reached(
        &self,
        mut target: SshTarget,
        by: &SshAddress,
    ) -> Result<SshTarget, TunnelError> {
        write_atomically(&self.answered(&target.alias), &place(by))?;
        target.addresses.sort_by_key(|address| address != by);
        Ok(target)
    }

    fn answered(&self, alias: &str) -> PathBuf {
        self.dir.join("answered").join(alias)
    }

    /// The line for the user's `~/.ssh/config` by which other programs know runs by their names.
    pub fn include_line(&self) -> String {
        format!("Include \"{}\"", self.dir.join("config").display())
    }

    /// Lets the user's own ssh find a run by its name: `Host <run>` in the file that `<home>/ssh/config` includes.
    /// The user adds `Include <home>/ssh/config` to `~/.ssh/config` once.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn publish(&self, run: &str, target: &SshTarget) -> Result<(), TunnelError> {
        let Some(address) = target.addresses.first() else {
            return Ok(());
        };
        let text = format!(
            "# Written by spotter. To use run names with ssh, scp and editors, put this first into ~/.ssh/config:\n\
             #   {}\n\
             Include \"{}\"\n",
            self.include_line(),
            self.dir.join("runs/*").display(),
        );
        write_atomically(&self.dir.join("config"), &text)?;
        write_atomically(
            &self.dir.join("runs").join(run),
            &options::host_text(run, target, address),
        )
    }

    /// Forgets a destroyed instance: its pinned host keys, its configuration and the run's host name.
    pub fn forget(&self, run: &str, provider: &str, id: u64) {
        let alias = alias(provider, id);
        for path in [
            self.dir.join("known_hosts.d").join(&alias),
            self.dir.join("config.d").join(&alias),
            self.answered(&alias),
        ] {
            let _ = fs::remove_file(path);
        }
        // The run's name may be another box's by now.
        let name = self.dir.join("runs").join(run);
        let ours = [format!("HostKeyAlias {alias}\n"), format!("# {alias}\n")];
        if fs::read_to_string(&name).is_ok_and(|text| ours.iter().any(|line| text.contains(line))) {
            let _ = fs::remove_file(name);
        }
    }
}

/// The name of an instance in ssh's files.
fn alias(provider: &str, id: u64) -> String {
    match is_host(id) {
        true => format!("spotter-host-{id}"),
        false => format!("spotter-{provider}-{id}"),
    }
}

/// An address in one word.
fn place(address: &SshAddress) -> String {
    format!("{}:{}", address.host, address.port)
}

/// Where ssh-keygen puts the public half.
fn public_half(key: &Path) -> PathBuf {
    let mut path = key.as_os_str().to_owned();
    path.push(".pub");
    PathBuf::from(path)
}

async fn lock(path: PathBuf) -> io::Result<Flock<fs::File>> {
    let locked = tokio::task::spawn_blocking(move || -> io::Result<Flock<fs::File>> {
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
    });
    locked.await.map_err(io::Error::other)?
}

fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

fn write_atomically(path: &Path, text: &str) -> Result<(), TunnelError> {
    let aside = path.with_file_name(format!(
        ".{}.{}",
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        std::process::id()
    ));
    let write = || -> io::Result<()> {
        fs::write(&aside, text)?;
        fs::rename(&aside, path)
    };
    write().map_err(|err| TunnelError::local(format!("{} cannot be written", path.display()), err))
}

/// A directory for sockets, ours alone and with a short path.
fn socket_dir(runtime_dir: Option<&Path>) -> Result<PathBuf, TunnelError> {
    let uid = nix::unistd::getuid().as_raw();
    let fallback = PathBuf::from(format!("/tmp/spotter-{uid}"));
    // `c-<pid>-<number>` needs 22 bytes at most.
    let fits = |dir: &Path| dir.as_os_str().len() + 24 <= CONTROL_PATH_LIMIT_BYTES;
    let dir = runtime_dir
        .map(|dir| dir.join("spotter"))
        .filter(|dir| fits(dir))
        .unwrap_or(fallback);
    private_dir(&dir).map_err(|err| {
        TunnelError::local(
            format!("{} cannot be made for ssh's sockets", dir.display()),
            err,
        )
    })?;
    let check = || -> io::Result<()> {
        let found = fs::symlink_metadata(&dir)?;
        // Anybody may make a directory in /tmp first and wait for our sockets.
        if !found.is_dir() || found.uid() != uid || found.mode() & 0o077 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "it is not a directory of ours with mode 0700",
            ));
        }
        Ok(())
    };
    check().map_err(|err| {
        TunnelError::local(
            format!("{} cannot be used for ssh's sockets", dir.display()),
            err,
        )
    })?;
    Ok(dir)
}

/// Removes sockets and scripts of commands that are no more: their names hold the process id.
fn sweep(runtime: &Path) {
    let Ok(entries) = fs::read_dir(runtime) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name
            .to_string_lossy()
            .split('-')
            .nth(1)
            .and_then(|pid| pid.parse::<i32>().ok())
        else {
            continue;
        };
        let gone = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None)
            == Err(nix::errno::Errno::ESRCH);
        if gone {
            let _ = fs::remove_file(entry.path());
        }
    }
}
