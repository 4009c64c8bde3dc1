//! Programs of this machine that boxes are made with: where they are, and which packages bring the missing ones.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

use super::Tier;

/// Where to look besides `PATH`: an ordinary user's `PATH` often lacks the sbin directories, where sshd and nft are.
const BIN: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];
const LIB: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
    "/lib64",
];

/// sshd for the box, and what spotter itself runs on a box.
const EVERY_TIER: [(&str, &str); 5] = [
    ("bash", "bash"),
    ("sshd", "openssh-server"),
    ("ssh-keygen", "openssh-client"),
    ("tmux", "tmux"),
    ("rsync", "rsync"),
];
const WRAPPED: [(&str, &str); 1] = [("libnss_wrapper.so", "libnss-wrapper")];
const NAMESPACES: [(&str, &str); 4] = [
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("mount", "mount"),
];
const NETWORK: [(&str, &str); 4] = [
    ("umount", "mount"),
    ("ip", "iproute2"),
    ("ss", "iproute2"),
    ("nft", "nftables"),
];

/// The programs that one tier needs, all found.
#[derive(Debug)]
pub(super) struct Tools {
    paths: BTreeMap<&'static str, PathBuf>,
}

impl Tools {
    /// Looks for all that `tier` needs; the error names every missing program and one command that installs them.
    pub(super) fn find(tier: Tier) -> anyhow::Result<Tools> {
        let mut needed = EVERY_TIER.to_vec();
        match tier {
            Tier::One => needed.extend(WRAPPED),
            Tier::OneAndHalf => needed.extend(WRAPPED.into_iter().chain(NAMESPACES)),
            Tier::Two => needed.extend(NAMESPACES.into_iter().chain(NETWORK)),
        }
        let mut paths = BTreeMap::new();
        let (mut programs, mut packages) = (Vec::new(), Vec::new());
        for (program, package) in needed {
            match look_for(program) {
                Some(path) => {
                    paths.insert(program, path);
                }
                None => {
                    programs.push(format!("`{program}`"));
                    if !packages.contains(&package) {
                        packages.push(package);
                    }
                }
            }
        }
        if !programs.is_empty() {
            bail!(
                "{} not installed: apt-get install -y --no-install-recommends {}",
                programs.join(", "),
                packages.join(" ")
            );
        }
        Ok(Tools { paths })
    }

    /// Path of a program that this tier needs.
    pub(super) fn path(&self, program: &str) -> &Path {
        self.paths
            .get(program)
            .expect("a tier asks only for programs that were checked when it was chosen")
    }
}

/// A program (or library) in the usual places.
pub(super) fn look_for(program: &str) -> Option<PathBuf> {
    let fixed = if program.contains(".so") { LIB } else { BIN };
    let path = env::var_os("PATH").unwrap_or_default();
    let listed = if program.contains(".so") {
        Vec::new()
    } else {
        env::split_paths(&path).collect()
    };
    fixed
        .into_iter()
        .map(PathBuf::from)
        .chain(listed)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

/// Runs a short command to its end; what it printed, or an error that quotes its complaint.
pub(super) fn run(program: &Path, args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!(
            "`{} {}`: {} ({})",
            program.display(),
            args.join(" "),
            last_line(&said),
            output.status
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// [`run`] without holding up the runtime.
pub(super) async fn run_async(program: &Path, args: Vec<String>) -> anyhow::Result<String> {
    let program = program.to_path_buf();
    tokio::task::spawn_blocking(move || {
        run(
            &program,
            &args.iter().map(String::as_str).collect::<Vec<_>>(),
        )
    })
    .await?
}

fn last_line(text: &str) -> &str {
    text.lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("no message")
        .trim()
}
