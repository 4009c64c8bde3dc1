//! Tier 2: a box that is root of its own world. Own processes, mounts, network and hostname, an overlay over this machine's
//! files on a disk of limited size, a memory limit.
//!
//! The disk is a tmpfs mounted outside of the box, so that it outlives a stop; its pages count against the memory limit of the
//! box that wrote them. A slow line needs `/dev/net/tun`; a memory limit needs a memory control group.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use async_trait::async_trait;
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    unistd::geteuid,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::Command,
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use super::{
    BoxSpec, Tier,
    fleet::{Backend, Running},
    instance::Instance,
    layout::{BoxFiles, Inside, write_private},
    link::Link,
    namespace::{Namespace, tail},
    network::{Lease, Network},
    processes::MARKER,
    tools::{Tools, run},
};

const ISOLATED: &str = include_str!("isolated.sh");
const NAMESPACES: [&str; 9] = [
    "--net",
    "--mount",
    "--pid",
    "--uts",
    "--ipc",
    "--cgroup",
    "--fork",
    "--kill-child",
    "--propagation=private",
];
/// How long sshd may take to greet, seconds more than it ever took on a loaded machine.
const GREETING_LIMIT: Duration = Duration::from_secs(20);
/// Where control groups of the two kinds may be. The last one is version 2 without controllers, on hybrid machines.
const CGROUPS: [&str; 3] = [
    "/sys/fs/cgroup",
    "/sys/fs/cgroup/memory",
    "/sys/fs/cgroup/unified",
];

/// Boxes of tier 2.
pub(super) struct Isolated {
    tools: Arc<Tools>,
    memory: MemoryGroups,
    network: Arc<Network>,
    instance: Arc<Instance>,
}

impl Isolated {
    /// Checks that such boxes work here, and makes their network.
    pub(super) fn open(instance: Arc<Instance>) -> anyhow::Result<Isolated> {
        if !geteuid().is_root() {
            bail!("it needs root");
        }
        let tools = Arc::new(Tools::find(Tier::Two)?);
        let memory = MemoryGroups::find(instance.tag())?;
        let probe = instance.dir().join("probe");
        fs::create_dir_all(&probe)?;
        let script = "mount -t tmpfs t \"$0\" && cd \"$0\" && mkdir u w m && \
                      mount -t overlay o -o lowerdir=/,upperdir=\"$0/u\",workdir=\"$0/w\",xino=off m && ip link set lo up";
        let mut args = NAMESPACES.to_vec();
        let probe_text = probe.display().to_string();
        args.extend(["bash", "-c", script, &probe_text]);
        let probed = run(tools.path("unshare"), &args);
        fs::remove_dir(&probe)?;
        probed.context("no namespaces with an overlay over the root file system")?;
        let network = Arc::new(Network::open(Arc::clone(&tools), instance.tag())?);
        Ok(Isolated {
            tools,
            memory,
            network,
            instance,
        })
    }
}

#[async_trait]
impl Backend for Isolated {
    fn tier(&self) -> Tier {
        Tier::Two
    }

    fn host_address(&self) -> IpAddr {
        self.network.host().into()
    }

    fn files(&self, spec: BoxSpec) -> BoxFiles {
        let root = self.instance.box_dir(spec.id);
        let inside = Inside {
            home: "/root".into(),
            etc: "/run/box".into(),
        };
        BoxFiles {
            mark: self.instance.mark(spec.id),
            home: root.join("disk/root"),
            spec,
            root,
            inside,
        }
    }

    fn make_disk(&self, files: &BoxFiles) -> anyhow::Result<()> {
        if files.spec.disk_mb == 0 {
            bail!("a disk of 0 MB holds nothing");
        }
        let disk = files.disk();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&disk)?;
        let size = format!("size={}m,mode=755", files.spec.disk_mb);
        mount(
            Some("box"),
            &disk,
            Some("tmpfs"),
            MsFlags::MS_NOSUID,
            Some(size.as_str()),
        )
        .with_context(|| format!("cannot mount {}", disk.display()))?;
        for (name, mode) in [
            ("upper", 0o755),
            ("overlay", 0o755),
            ("merged", 0o755),
            ("root", 0o700),
            ("workspace", 0o755),
            ("tmp", 0o1777),
        ] {
            fs::create_dir(disk.join(name))?;
            // Not by the builder: the umask would take bits away.
            fs::set_permissions(disk.join(name), fs::Permissions::from_mode(mode))?;
        }
        files.write(self.tools.path("ssh-keygen"))?;
        write_private(&files.root.join("isolated.sh"), ISOLATED.as_bytes())
    }

    fn remove_disk(&self, files: &BoxFiles) -> anyhow::Result<()> {
        match umount2(&files.disk(), MntFlags::MNT_DETACH) {
            // Not mounted, or not even made.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
            Err(err) => {
                Err(err).with_context(|| format!("cannot unmount {}", files.disk().display()))
            }
        }
    }

    async fn start(
        &self,
        files: &BoxFiles,
        link: Link,
    ) -> anyhow::Result<(Box<dyn Running>, SocketAddr)> {
        let mut lease = self.network.lease()?;
        let group = self.memory.make(self.instance.tag(), &files.spec)?;
        let mut namespace =
            Namespace::spawn(self.command(files, group.as_ref())?, &files.log()).await?;
        lease
            .plug(namespace.init())
            .await
            .context("cannot connect the box to the network")?;
        let addresses = format!("{} {}\n", lease.address(), self.network.host());
        let mut stdin = namespace.take_stdin().context("the box has no input")?;
        stdin
            .write_all(addresses.as_bytes())
            .await
            .context("the box does not listen")?;
        drop(stdin);

        let address = SocketAddr::new(lease.address().into(), 22);
        greeting(address, &mut namespace, &files.log()).await?;
        lease.set(namespace.init(), link, false).await?;
        Ok((
            Box::new(IsolatedBox {
                namespace,
                lease,
                group,
            }),
            address,
        ))
    }
}

impl Isolated {
    /// `unshare` in the box's control group; it reads its addresses from stdin.
    fn command(&self, files: &BoxFiles, group: Option<&Group>) -> anyhow::Result<Command> {
        let unshare = self.tools.path("unshare");
        let mut command = match group {
            None => Command::new(unshare),
            Some(Group(group)) => {
                let mut command = Command::new(self.tools.path("bash"));
                command
                    .args(["-c", "echo $$ >\"$0\" && exec \"$@\""])
                    .arg(group.join("cgroup.procs"))
                    .arg(unshare);
                command
            }
        };
        command
            .args(NAMESPACES)
            .arg("bash")
            .arg(files.root.join("isolated.sh"));
        command
            .args([files.root.as_path(), self.instance.dir()])
            .arg(files.hostname())
            .arg(self.tools.path("sshd"));
        let log = fs::OpenOptions::new()
            .append(true)
            .open(files.log())
            .context("cannot open the box's log")?;
        command
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log);
        command.process_group(0).env_clear();
        command
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env(MARKER, &files.mark);
        Ok(command)
    }
}

// Dropped in this order: processes, then their address and their control group.
struct IsolatedBox {
    namespace: Namespace,
    lease: Lease,
    group: Option<Group>,
}

impl IsolatedBox {
    async fn remove_group(&mut self) -> anyhow::Result<()> {
        match self.group.take() {
            Some(group) => spawn_blocking(move || remove_cgroup(&group.0)).await?,
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Running for IsolatedBox {
    async fn stop(&mut self, grace: Duration) -> anyhow::Result<()> {
        self.namespace.stop(grace).await?;
        self.remove_group().await
    }

    async fn cut(&mut self) -> anyhow::Result<()> {
        self.lease.cut().await
    }

    async fn kill(&mut self) -> anyhow::Result<()> {
        self.namespace.kill().await?;
        self.remove_group().await
    }

    async fn set_link(&mut self, link: Link, reset: bool) -> anyhow::Result<()> {
        self.lease.set(self.namespace.init(), link, reset).await
    }
}

async fn greeting(
    address: SocketAddr,
    namespace: &mut Namespace,
    log: &Path,
) -> anyhow::Result<()> {
    let start = Instant::now();
    while start.elapsed() < GREETING_LIMIT {
        namespace.check(log)?;
        if let Ok(Ok(mut sshd)) = timeout(Duration::from_secs(1), TcpStream::connect(address)).await
        {
            let mut line = String::new();
            let _ = timeout(
                Duration::from_secs(5),
                BufReader::new(&mut sshd).read_line(&mut line),
            )
            .await;
            if line.starts_with("SSH-2.0") {
                return Ok(());
            }
        }
        sleep(Duration::from_millis(10)).await;
    }
    bail!(
        "sshd did not greet within {GREETING_LIMIT:?}: {}",
        tail(log)
    )
}

/// A control group that is removed when dropped, at the latest.
struct Group(PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Where this machine limits memory.
#[derive(Debug, Clone)]
enum MemoryGroups {
    Version1(PathBuf),
    Version2(PathBuf),
}

impl MemoryGroups {
    /// Finds the controller and proves that a group can be made.
    fn find(tag: &str) -> anyhow::Result<MemoryGroups> {
        let v2 = PathBuf::from(CGROUPS[0]);
        let v1 = PathBuf::from(CGROUPS[1]);
        let controllers = fs::read_to_string(v2.join("cgroup.controllers")).unwrap_or_default();
        let found = if controllers.split_whitespace().any(|name| name == "memory") {
            fs::write(v2.join("cgroup.subtree_control"), "+memory")
                .context("cannot pass the memory controller on")?;
            MemoryGroups::Version2(v2)
        } else if v1.join("memory.limit_in_bytes").exists() {
            MemoryGroups::Version1(v1)
        } else {
            bail!(
                "no memory control group is mounted at {} or below",
                CGROUPS[0]
            );
        };
        let probe = found.root().join(format!("spotter-sim-{tag}-probe"));
        fs::create_dir(&probe).with_context(|| {
            format!("cannot make a control group in {}", found.root().display())
        })?;
        remove_cgroup(&probe)?;
        Ok(found)
    }

    fn root(&self) -> &Path {
        match self {
            MemoryGroups::Version1(root) | MemoryGroups::Version2(root) => root,
        }
    }

    /// The group of a box, with its limit; none when it has no limit.
    fn make(&self, tag: &str, spec: &BoxSpec) -> anyhow::Result<Option<Group>> {
        if spec.memory_mb == 0 {
            return Ok(None);
        }
        let group = Group(self.root().join(format!("spotter-sim-{tag}-{}", spec.id)));
        fs::create_dir(&group.0).with_context(|| format!("cannot make {}", group.0.display()))?;
        let file = match self {
            MemoryGroups::Version1(_) => "memory.limit_in_bytes",
            MemoryGroups::Version2(_) => "memory.max",
        };
        fs::write(group.0.join(file), (spec.memory_mb << 20).to_string())
            .with_context(|| format!("cannot limit memory to {} MB", spec.memory_mb))?;
        Ok(Some(group))
    }
}

/// Removes the control groups that a simulator with this tag has left.
pub(super) fn sweep_cgroups(tag: &str) -> anyhow::Result<()> {
    let prefix = format!("spotter-sim-{tag}-");
    for root in CGROUPS {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                remove_cgroup(&entry.path())?;
            }
        }
    }
    Ok(())
}

/// A group is busy for some milliseconds after its last process has ended.
fn remove_cgroup(path: &Path) -> anyhow::Result<()> {
    for _ in 0..200 {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
    fs::remove_dir(path)
        .with_context(|| format!("cannot remove the control group {}", path.display()))
}
