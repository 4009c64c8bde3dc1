//! A box for tests: a real sshd without a port (`ProxyCommand sshd -i`) under libnss-wrapper, so that `root@` and its own HOME
//! work for any user. Everything that mentions its directory is killed at the end.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{sys::signal, unistd::Pid};
use spotter::{
    provider::SshAddress,
    tunnel::{Patience, SshHome, SshTarget, Tunnel},
};
use tempfile::TempDir;

/// The name that the user's ssh configuration knows.
pub const HOST: &str = "box.test";

pub struct TestBox {
    pub dir: TempDir,
}

impl TestBox {
    pub fn new() -> TestBox {
        let dir = tempfile::Builder::new()
            .prefix("link")
            .tempdir_in("/tmp")
            .unwrap();
        let test_box = TestBox { dir };
        let path = |name: &str| test_box.path(name);
        for name in ["home", "laptop"] {
            fs::create_dir(path(name)).unwrap();
        }
        // As root, sshd gives up its rights for the login; as anybody else it has none to give up.
        if nix::unistd::getuid().is_root() {
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
        let home = path("home");
        fs::write(
            path("passwd"),
            format!(
                "root:x:{uid}:{gid}:root:{}:/bin/bash\nsshd:x:65532:65532::/run/sshd:/usr/sbin/nologin\n",
                home.display()
            ),
        )
        .unwrap();
        fs::write(path("group"), format!("root:x:{gid}:\nsshd:x:65532:\n")).unwrap();
        test_box.new_host_key();
        fs::write(
            path("sshd_config"),
            format!(
                "HostKey {}\nPidFile none\nAuthorizedKeysFile {}\nAuthenticationMethods publickey\nPasswordAuthentication no\n\
                 KbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nUseDNS no\nPrintMotd no\n",
                path("host_key").display(),
                path("authorized_keys").display()
            ),
        )
        .unwrap();
        fs::write(
            path("user_config"),
            format!("Host {HOST}\n  ProxyCommand {}\n", test_box.sshd_line()),
        )
        .unwrap();
        test_box
    }

    /// The command that serves one connection on its stdin and stdout.
    pub fn sshd_line(&self) -> String {
        format!(
            "env LD_PRELOAD=libnss_wrapper.so NSS_WRAPPER_PASSWD={} NSS_WRAPPER_GROUP={} /usr/sbin/sshd -i -E {} -f {}",
            self.path("passwd").display(),
            self.path("group").display(),
            self.path("sshd.log").display(),
            self.path("sshd_config").display()
        )
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// What the login shell reads for every command.
    pub fn rc(&self, text: &str) {
        fs::write(self.home().join(".bashrc"), text).unwrap();
    }

    /// A freshly made container has another host key.
    pub fn new_host_key(&self) {
        let key = self.path("host_key");
        let _ = fs::remove_file(&key);
        let done = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key)
            .status()
            .unwrap();
        assert!(done.success());
    }

    pub fn ssh_home(&self) -> SshHome {
        SshHome::open(&self.path("laptop"), None, None, self.path("user_config")).unwrap()
    }

    /// The target with our key let in.
    pub async fn target(&self) -> SshTarget {
        self.target_at(22).await
    }

    /// The same behind a port of this machine.
    pub async fn target_at(&self, port: u16) -> SshTarget {
        let ssh_home = self.ssh_home();
        fs::write(
            self.path("authorized_keys"),
            ssh_home.public_key().await.unwrap() + "\n",
        )
        .unwrap();
        ssh_home
            .target("test", 7, vec![address(HOST, port)])
            .await
            .unwrap()
    }

    pub async fn connect(&self) -> Tunnel {
        self.connect_to(self.target().await).await
    }

    pub async fn connect_to(&self, target: SshTarget) -> Tunnel {
        Tunnel::connect(target, Patience::known_box(Duration::from_secs(30)))
            .await
            .unwrap_or_else(|err| {
                panic!(
                    "{err}\nsshd says: {}",
                    fs::read_to_string(self.path("sshd.log")).unwrap_or_default()
                )
            })
    }

    /// Processes whose command line or environment mentions this box.
    pub fn processes(&self) -> Vec<i32> {
        mentioning(&self.dir.path().display().to_string())
    }

    /// Waits until the condition holds.
    pub async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "{what} did not come about in 30 s"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for TestBox {
    fn drop(&mut self) {
        for _ in 0..50 {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            for pid in left {
                let _ = signal::kill(Pid::from_raw(pid), signal::Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn mentioning(path: &str) -> Vec<i32> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(pid) = name.parse::<i32>() else {
            continue;
        };
        if name == own {
            continue;
        }
        let mentions = |file: &str| {
            fs::read(entry.path().join(file))
                .is_ok_and(|text| String::from_utf8_lossy(&text).contains(path))
        };
        if mentions("cmdline") || mentions("environ") {
            found.push(pid);
        }
    }
    found
}

pub fn address(host: &str, port: u16) -> SshAddress {
    SshAddress {
        host: host.to_owned(),
        port,
        proxy: false,
    }
}

/// The agent as cargo built it, without its symbols: nine tenths of what a debug build would upload.
pub fn agent_path() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let built = exe.ancestors().nth(2).unwrap().join("spotter-agent");
    if !built.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let done = Command::new(cargo)
            .args(["build", "-p", "spotter-agent"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::null())
            .status()
            .unwrap();
        assert!(
            done.success() && built.exists(),
            "the agent could not be built"
        );
    }
    let changed = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let small = built.with_extension("stripped");
    if changed(&small) < changed(&built) {
        let aside = small.with_extension(std::process::id().to_string());
        let done = Command::new("strip")
            .arg("-o")
            .arg(&aside)
            .arg(&built)
            .status();
        if !done.is_ok_and(|status| status.success()) {
            return built;
        }
        fs::rename(&aside, &small).unwrap();
    }
    small
}

pub fn executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// What images do to a login shell that is not interactive, and a little more: a banner, bytes without a line end, a guarded tmux.
pub const NOISY_RC: &str = r#"
umask 002
echo ">>> Instance provisioning is not yet complete"
echo "SPOTTER-BRIDGE/1 0000"
head -c 3000 /dev/zero | tr '\0' '\377'
printf 'no line end'
case $- in *i*) exec tmux new-session -A -s ssh_tmux ;; esac
[ -n "$PS1" ] && exec tmux
cd /
"#;
