//! Tiers 1 and 1.5: sshd under libnss-wrapper, which makes an ordinary user's box answer to `ssh root@`.
//!
//! Tier 1 has no PID 1, no private `/tmp`, no limits; the simulator itself plays Docker. Tier 1.5 adds what an unprivileged user
//! namespace gives: its own processes, mounts and `/tmp`. Both have the network of this machine.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::Path,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use async_trait::async_trait;
use nix::{
    fcntl::OFlag,
    pty::{grantpt, posix_openpt, ptsname_r, unlockpt},
    sys::signal::Signal,
    unistd::{Pid, getegid, geteuid},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use super::{
    BoxSpec, Tier,
    fleet::{Backend, Running},
    instance::Instance,
    layout::{BoxFiles, Inside, write_private},
    link::{Link, Relay, Serve},
    namespace::{Namespace, tail},
    processes::{MARKER, Selection},
    tools::{Tools, run},
};

const UNSHARED: &str = include_str!("unshared.sh");
/// A socket's path may have 107 bytes and the agent keeps to 90; the longest below a box's directory is
/// `b<10 digits>/home/.spotter/agent.sock`.
const MAX_DIR: usize = 90 - 37;
/// How long sshd may take to greet, seconds more than it ever took on a loaded machine.
const GREETING_LIMIT: Duration = Duration::from_secs(20);
/// The user that root becomes in tier 1.5. As root, sshd would want rights that a single mapped user does not give.
const STAND_IN: u32 = 1000;

/// Boxes of tier 1 or 1.5.
pub(super) struct Wrapped {
    tier: Tier,
    tools: Arc<Tools>,
    instance: Arc<Instance>,
    /// Group of a fresh terminal; sshd insists on it.
    tty_group: u32,
}

impl Wrapped {
    /// Checks that such boxes work here.
    pub(super) fn open(tier: Tier, instance: Arc<Instance>) -> anyhow::Result<Wrapped> {
        let tools = Arc::new(Tools::find(tier)?);
        let length = instance.dir().as_os_str().len();
        if length > MAX_DIR {
            bail!(
                "{} has {length} bytes, more than {MAX_DIR}: sockets in the boxes would have too long a path",
                instance.dir().display()
            );
        }
        let unshared = tier == Tier::OneAndHalf;
        if unshared {
            let mut args = unshare_args();
            args.extend([
                "bash",
                "-c",
                "mount -t tmpfs t /mnt && mount -t devpts -o newinstance p /dev/pts && hostname t",
            ]);
            run(tools.path("unshare"), &args).context("no unprivileged user namespace")?;
        } else if geteuid().is_root() {
            // Where sshd puts the half of itself that has not authenticated anybody yet.
            fs::create_dir_all("/run/sshd").context("cannot make /run/sshd")?;
        }
        let tty_group = if unshared {
            inside_ids().1
        } else {
            tty_group()?
        };
        Ok(Wrapped {
            tier,
            tools,
            instance,
            tty_group,
        })
    }

    fn unshared(&self) -> bool {
        self.tier == Tier::OneAndHalf
    }

    /// What libnss-wrapper shows as the machine's users and groups.
    fn write_users(&self, files: &BoxFiles) -> anyhow::Result<()> {
        let (user, group) = if self.unshared() {
            inside_ids()
        } else {
            (geteuid().as_raw(), getegid().as_raw())
        };
        let etc = files.etc();
        let mut passwd = format!(
            "root:x:{user}:{group}:root:{}:/bin/bash\n",
            files.inside.home.display()
        );
        if let Some(sshd) = nix::unistd::User::from_name("sshd")? {
            passwd.push_str(&format!(
                "sshd:x:{}:{}::/run/sshd:/usr/sbin/nologin\n",
                sshd.uid, sshd.gid
            ));
        }
        write_private(&etc.join("passwd"), passwd.as_bytes())?;
        write_private(
            &etc.join("group"),
            format!("root:x:{group}:\ntty:x:{}:\n", self.tty_group).as_bytes(),
        )?;
        // `*`: no password will do, and unlike `!` sshd does not take the account for locked.
        write_private(&etc.join("shadow"), b"root:*:19000:0:99999:7:::\n")
    }

    /// The command that serves one ssh connection on its stdin and stdout.
    fn sshd(&self, files: &BoxFiles, init: Option<Pid>) -> Serve {
        let tools = Arc::clone(&self.tools);
        let etc = files.etc();
        let mark = files.mark.clone();
        let log = files.log();
        Arc::new(move || {
            let mut command = match init {
                None => Command::new(tools.path("sshd")),
                Some(init) => {
                    let mut command = Command::new(tools.path("nsenter"));
                    command.args([
                        "-t",
                        &init.to_string(),
                        "-U",
                        "--preserve-credentials",
                        "-m",
                        "-p",
                        "-u",
                        "-i",
                        "--",
                    ]);
                    command.arg(tools.path("sshd"));
                    command
                }
            };
            command
                .args(["-i", "-e", "-f"])
                .arg(etc.join("sshd_config"));
            command.env_clear();
            command.env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            );
            command.env("LD_PRELOAD", tools.path("libnss_wrapper.so"));
            command.env("NSS_WRAPPER_PASSWD", etc.join("passwd"));
            command.env("NSS_WRAPPER_GROUP", etc.join("group"));
            command.env("NSS_WRAPPER_SHADOW", etc.join("shadow"));
            command.env(MARKER, &mark);
            command.current_dir("/");
            command.stderr(append_to(&log));
            command
        })
    }

    async fn start_unshared(&self, files: &BoxFiles) -> anyhow::Result<Namespace> {
        let mut command = Command::new(self.tools.path("unshare"));
        command.args(unshare_args());
        command.arg("bash").arg(files.etc().join("unshared.sh"));
        command
            .args([files.root.as_path(), self.instance.dir()])
            .arg(files.hostname());
        prepare(&mut command, files);
        command.envs([
            (
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            ),
            (MARKER, &files.mark),
        ]);
        let mut namespace = Namespace::spawn(command, &files.log()).await?;
        namespace.wait_for("launcher.sh", &files.log()).await?;
        Ok(namespace)
    }

    fn start_onstart(&self, files: &BoxFiles) -> anyhow::Result<Child> {
        let mut command = Command::new(self.tools.path("bash"));
        command
            .arg(files.home.join("onstart.sh"))
            .current_dir(&files.home);
        prepare(&mut command, files);
        command.envs(files.container_env());
        command.spawn().context("cannot start onstart")
    }
}

#[async_trait]
impl Backend for Wrapped {
    fn tier(&self) -> Tier {
        self.tier
    }

    fn host_address(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    }

    fn files(&self, spec: BoxSpec) -> BoxFiles {
        let root = self.instance.box_dir(spec.id);
        let home = root.join("home");
        let inside = Inside {
            home: home.clone(),
            etc: root.join("etc"),
        };
        BoxFiles {
            mark: self.instance.mark(spec.id),
            spec,
            root,
            home,
            inside,
        }
    }

    fn make_disk(&self, files: &BoxFiles) -> anyhow::Result<()> {
        files.write(self.tools.path("ssh-keygen"))?;
        self.write_users(files)?;
        if self.unshared() {
            write_private(&files.etc().join("unshared.sh"), UNSHARED.as_bytes())?;
            fs::create_dir_all(files.root.join("tmp"))?;
        }
        Ok(())
    }

    fn remove_disk(&self, _files: &BoxFiles) -> anyhow::Result<()> {
        Ok(())
    }

    async fn start(
        &self,
        files: &BoxFiles,
        link: Link,
    ) -> anyhow::Result<(Box<dyn Running>, SocketAddr)> {
        let (life, init) = if self.unshared() {
            let namespace = self.start_unshared(files).await?;
            let init = namespace.init();
            (Life::Namespace(namespace), Some(init))
        } else {
            (
                Life::Marked {
                    selection: files.selection(),
                    _onstart: self.start_onstart(files)?,
                },
                None,
            )
        };
        let serve = self.sshd(files, init);
        greeting(serve(), &files.log()).await?;
        let relay = Relay::open(link, serve).await?;
        let address = relay.address();
        Ok((
            Box::new(WrappedBox {
                relay: Some(relay),
                dark: false,
                life,
            }),
            address,
        ))
    }
}

/// How everything in a box is reached, to end it.
enum Life {
    Namespace(Namespace),
    /// The child is kept so that it is reaped; it is killed by its mark, like all it started.
    Marked {
        selection: Selection,
        _onstart: Child,
    },
}

struct WrappedBox {
    relay: Option<Relay>,
    /// The relay holds its clients, who must not notice that the box has ended.
    dark: bool,
    life: Life,
}

#[async_trait]
impl Running for WrappedBox {
    async fn stop(&mut self, grace: Duration) -> anyhow::Result<()> {
        match &mut self.life {
            Life::Namespace(namespace) => namespace.stop(grace).await?,
            Life::Marked { selection, .. } => {
                let deadline = Instant::now() + grace;
                selection.signal(Signal::SIGTERM);
                while !selection.find().is_empty() && Instant::now() < deadline {
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
        self.kill().await
    }

    async fn cut(&mut self) -> anyhow::Result<()> {
        self.dark = true;
        if let Some(relay) = &self.relay {
            relay.darken().await;
        }
        Ok(())
    }

    async fn kill(&mut self) -> anyhow::Result<()> {
        // First sshd, which could start something behind our back.
        if !self.dark
            && let Some(relay) = self.relay.take()
        {
            relay.close().await;
        }
        match &mut self.life {
            Life::Namespace(namespace) => namespace.kill().await,
            Life::Marked { selection, .. } => {
                let selection = selection.clone();
                spawn_blocking(move || selection.kill_all()).await?
            }
        }
    }

    async fn set_link(&mut self, link: Link, reset: bool) -> anyhow::Result<()> {
        if let Some(relay) = &self.relay {
            relay.set(link, reset).await;
        }
        Ok(())
    }
}

/// Waits for sshd's first line, past the relay: its line may be cut.
async fn greeting(mut command: Command, log: &Path) -> anyhow::Result<()> {
    let mut sshd = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start sshd")?;
    let mut lines = BufReader::new(sshd.stdout.take().expect("stdout was piped")).lines();
    let line = timeout(GREETING_LIMIT, lines.next_line())
        .await
        .with_context(|| format!("sshd did not greet within {GREETING_LIMIT:?}"))??;
    // An end of file on its stdin ends sshd, inside a namespace too.
    drop(sshd.stdin.take());
    let _ = timeout(Duration::from_secs(1), sshd.wait()).await;
    match line {
        Some(line) if line.starts_with("SSH-2.0") => Ok(()),
        Some(line) => bail!("sshd greeted with {line:?}"),
        None => bail!("sshd ended at once: {}", tail(log)),
    }
}

/// No terminal, no input, output to the box's log, a process group of its own, nothing of our environment.
fn prepare(command: &mut Command, files: &BoxFiles) {
    command
        .stdin(Stdio::null())
        .stdout(append_to(&files.log()))
        .stderr(append_to(&files.log()));
    command.process_group(0).env_clear();
}

fn append_to(log: &Path) -> Stdio {
    fs::OpenOptions::new()
        .append(true)
        .open(log)
        .map_or_else(|_| Stdio::null(), Stdio::from)
}

/// User and group in tier 1.5.
fn inside_ids() -> (u32, u32) {
    if geteuid().is_root() {
        (STAND_IN, STAND_IN)
    } else {
        (geteuid().as_raw(), getegid().as_raw())
    }
}

/// `unshare` and what of this user it maps. Static text: the ids are the same for the life of the program.
fn unshare_args() -> Vec<&'static str> {
    let mut args = if geteuid().is_root() {
        vec!["--user", "--map-user=1000", "--map-group=1000"]
    } else {
        vec!["--user", "--map-current-user"]
    };
    args.extend([
        "--keep-caps",
        "--mount",
        "--pid",
        "--uts",
        "--ipc",
        "--fork",
        "--mount-proc",
        "--kill-child",
    ]);
    args
}

/// The group that the kernel gives to a new terminal here.
fn tty_group() -> anyhow::Result<u32> {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY).context("cannot make a terminal")?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname_r(&master)?;
    Ok(fs::metadata(&name)
        .with_context(|| format!("cannot look at {name}"))?
        .gid())
}
