//! The files of one box: its home as an image would bring it, its host key and the configuration of its sshd.
//!
//! `b<id>/home` or, in tier 2, `b<id>/disk/root` is HOME; `b<id>/etc` is what the simulator puts beside the container;
//! `b<id>/container.log` is what PID 1 printed.

use std::{
    env, fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::{
    BoxSpec, gpu,
    processes::{MARKER, Selection},
    tools::run,
};

const LAUNCHER: &str = include_str!("launcher.sh");
const BASHRC: &str = include_str!("bashrc.sh");
const FAKE_NVML: &str = "libfake_nvml.so";

/// Where a box sees its own files.
#[derive(Debug, Clone)]
pub(super) struct Inside {
    /// HOME.
    pub(super) home: PathBuf,
    /// Keys, configuration and scenario.
    pub(super) etc: PathBuf,
}

/// The disk of a box, seen from this machine.
#[derive(Debug, Clone)]
pub(super) struct BoxFiles {
    pub(super) spec: BoxSpec,
    /// Value of the variable that marks its processes.
    pub(super) mark: String,
    /// Everything of this box.
    pub(super) root: PathBuf,
    /// HOME, from outside.
    pub(super) home: PathBuf,
    /// Paths from inside.
    pub(super) inside: Inside,
}

impl BoxFiles {
    /// `etc`, from outside.
    pub(super) fn etc(&self) -> PathBuf {
        self.root.join("etc")
    }

    /// Output of PID 1, `onstart` and sshd.
    pub(super) fn log(&self) -> PathBuf {
        self.root.join("container.log")
    }

    /// The size-limited disk of tier 2.
    pub(super) fn disk(&self) -> PathBuf {
        self.root.join("disk")
    }

    /// All processes of this box.
    pub(super) fn selection(&self) -> Selection {
        Selection {
            mark: self.mark.clone(),
            root: self.root.clone(),
        }
    }

    /// Hostname, in the market's manner.
    pub(super) fn hostname(&self) -> String {
        format!("C.{}", self.spec.id)
    }

    /// Environment of the container.
    pub(super) fn container_env(&self) -> Vec<(String, String)> {
        let mut env = vec![
            (
                "PATH".to_owned(),
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            ),
            ("HOSTNAME".to_owned(), self.hostname()),
            ("HOME".to_owned(), text(&self.inside.home)),
            (MARKER.to_owned(), self.mark.clone()),
        ];
        if self.etc().join(FAKE_NVML).exists() {
            env.push((
                "NVML_LIB".to_owned(),
                text(&self.inside.etc.join(FAKE_NVML)),
            ));
            env.push((
                "FAKE_NVML_SCENARIO".to_owned(),
                text(&self.inside.etc.join("gpu.scn")),
            ));
        }
        for (name, value) in &self.spec.env {
            env.retain(|(known, _)| known != name);
            env.push((name.clone(), value.clone()));
        }
        env
    }

    /// Writes everything but what a tier adds. `home` must exist by now when it is on a disk of its own.
    pub(super) fn write(&self, ssh_keygen: &Path) -> anyhow::Result<()> {
        for dir in [&self.home, &self.home.join(".ssh"), &self.etc()] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let etc = self.etc();
        run(
            ssh_keygen,
            &[
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-C",
                &self.hostname(),
                "-f",
                &text(&etc.join("host_key")),
            ],
        )?;
        write_private(&etc.join("sshd_config"), self.sshd_config().as_bytes())?;
        write_private(&etc.join("launcher.sh"), LAUNCHER.as_bytes())?;
        if let Some(library) = find_fake_nvml() {
            fs::copy(&library, etc.join(FAKE_NVML))
                .with_context(|| format!("cannot copy {}", library.display()))?;
        }
        gpu::write_idle(&etc.join("gpu.scn"), &self.spec)?;
        let env: Vec<u8> = self
            .container_env()
            .iter()
            .flat_map(|(name, value)| format!("{name}={value}\0").into_bytes())
            .collect();
        write_private(&etc.join("container.env"), &env)?;
        write_private(&self.home.join("onstart.sh"), self.spec.onstart.as_bytes())?;
        write_private(&self.home.join(".bashrc"), BASHRC.as_bytes())?;
        write_private(&self.log(), b"")?;
        self.set_keys(&self.spec.authorized_keys)
    }

    /// Replaces the keys that may log in; sshd reads them at each login.
    pub(super) fn set_keys(&self, keys: &[String]) -> anyhow::Result<()> {
        let dir = self.home.join(".ssh");
        let aside = dir.join("authorized_keys.new");
        let text: String = keys.iter().map(|key| format!("{}\n", key.trim())).collect();
        write_private(&aside, text.as_bytes())?;
        fs::rename(&aside, dir.join("authorized_keys"))
            .context("cannot replace the keys of the box")
    }

    fn sshd_config(&self) -> String {
        let Inside { home, etc } = &self.inside;
        // The home may lie in a directory that sshd thinks too open (a temporary one): StrictModes off.
        format!(
            "Port 22\n\
             HostKey {etc}/host_key\n\
             PidFile none\n\
             AuthorizedKeysFile {home}/.ssh/authorized_keys\n\
             AuthenticationMethods publickey\n\
             PasswordAuthentication no\n\
             KbdInteractiveAuthentication no\n\
             PermitRootLogin prohibit-password\n\
             UsePAM no\n\
             StrictModes no\n\
             UseDNS no\n\
             PrintMotd no\n\
             PrintLastLog no\n\
             MaxStartups 100:30:200\n\
             LogLevel ERROR\n\
             SetEnv {MARKER}={mark}\n\
             Subsystem sftp internal-sftp\n",
            etc = etc.display(),
            home = home.display(),
            mark = self.mark,
        )
    }
}

/// Writes a file that only its owner may read.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// A path as text; the directory of all boxes was checked to be plain ASCII.
pub(super) fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The fake NVML, built beside this program; where it is not, boxes have no GPU to look at.
fn find_fake_nvml() -> Option<PathBuf> {
    fake_nvml_beside(&env::current_exe().ok()?)
}

/// The fake NVML where it lies beside a program, or beside its dependencies.
pub fn fake_nvml_beside(program: &Path) -> Option<PathBuf> {
    let dir = program.parent()?;
    let places = [
        dir.to_path_buf(),
        dir.join("deps"),
        dir.parent()?.to_path_buf(),
    ];
    places
        .into_iter()
        .map(|place| place.join(FAKE_NVML))
        .find(|path| path.is_file())
}
