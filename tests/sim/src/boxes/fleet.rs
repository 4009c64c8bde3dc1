//! The books of all boxes of a simulator: which exist, which run, what is wrong with their lines. How a box is made is a
//! [`Backend`]'s business.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use async_trait::async_trait;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{info, warn};

use super::{
    BoxSpec, Boxes, LinkFault, Tier, gpu,
    instance::{Instance, remove_tree},
    layout::BoxFiles,
    link::Link,
};

/// One way to make boxes.
#[async_trait]
pub(super) trait Backend: Send + Sync {
    fn tier(&self) -> Tier;
    fn host_address(&self) -> IpAddr;
    /// Where the files of a box are.
    fn files(&self, spec: BoxSpec) -> BoxFiles;
    /// Makes the disk and writes the files. Blocks.
    fn make_disk(&self, files: &BoxFiles) -> anyhow::Result<()>;
    /// Lets go of the disk; the fleet removes the directory. Blocks.
    fn remove_disk(&self, files: &BoxFiles) -> anyhow::Result<()>;
    /// Starts it. A box that could not be started leaves processes at most, which the fleet ends.
    async fn start(
        &self,
        files: &BoxFiles,
        link: Link,
    ) -> anyhow::Result<(Box<dyn Running>, SocketAddr)>;
}

/// A box that was started. Dropping it gives back its address or port.
#[async_trait]
pub(super) trait Running: Send {
    /// Docker's stop.
    async fn stop(&mut self, grace: Duration) -> anyhow::Result<()>;
    /// Takes the line away without a goodbye, for as long as this lives.
    async fn cut(&mut self) -> anyhow::Result<()>;
    /// Kills everything.
    async fn kill(&mut self) -> anyhow::Result<()>;
    /// Changes the line; `reset` breaks what is connected now.
    async fn set_link(&mut self, link: Link, reset: bool) -> anyhow::Result<()>;
}

enum State {
    Stopped,
    Running {
        machine: Box<dyn Running>,
        gpu: JoinHandle<()>,
    },
    /// Lost its power. The machine is kept for its line, at which clients still hang.
    Dark {
        _machine: Box<dyn Running>,
    },
}

struct Member {
    files: BoxFiles,
    link: Link,
    state: State,
}

type Shared = Arc<tokio::sync::Mutex<Member>>;

/// All boxes of one simulator.
pub(super) struct Fleet {
    // Dropped in this order: boxes, then what they ran on, then the lock on the directory.
    members: Mutex<HashMap<u64, Shared>>,
    backend: Arc<dyn Backend>,
    instance: Arc<Instance>,
}

impl Fleet {
    pub(super) fn new(instance: Arc<Instance>, backend: Box<dyn Backend>) -> Fleet {
        Fleet {
            members: Mutex::default(),
            backend: Arc::from(backend),
            instance,
        }
    }

    fn members(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Shared>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn member(&self, id: u64) -> anyhow::Result<Shared> {
        self.members()
            .get(&id)
            .cloned()
            .with_context(|| format!("there is no box {id}"))
    }

    /// Ends what runs, by whatever was left half started too.
    async fn halt(&self, member: &mut Member) -> anyhow::Result<()> {
        if let State::Running { mut machine, gpu } =
            std::mem::replace(&mut member.state, State::Stopped)
        {
            gpu.abort();
            machine.kill().await?;
        }
        let selection = member.files.selection();
        spawn_blocking(move || selection.kill_all()).await?
    }
}

#[async_trait]
impl Boxes for Fleet {
    fn tier(&self) -> Tier {
        self.backend.tier()
    }

    fn host_address(&self) -> IpAddr {
        self.backend.host_address()
    }

    async fn create(&self, spec: BoxSpec) -> anyhow::Result<()> {
        let id = spec.id;
        for (name, value) in &spec.env {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                bail!(
                    "box {id} cannot have the variable {name:?}: no name may be empty or hold `=`, nothing may hold NUL"
                );
            }
        }
        let files = self.backend.files(spec);
        let member = Arc::new(tokio::sync::Mutex::new(Member {
            files: files.clone(),
            link: Link::default(),
            state: State::Stopped,
        }));
        // Locked before anybody can see it: a start that comes too early waits for the disk.
        let _busy = Arc::clone(&member)
            .try_lock_owned()
            .expect("nobody else knows this lock yet");
        if self.members().contains_key(&id) {
            bail!("there is a box {id} already");
        }
        self.members().insert(id, Arc::clone(&member));

        let backend = Arc::clone(&self.backend);
        let made = spawn_blocking(move || {
            backend.make_disk(&files).inspect_err(|_| {
                let _ = backend.remove_disk(&files);
                let _ = remove_tree(&files.root);
            })
        });
        let made = made.await?;
        if made.is_err() {
            self.members().remove(&id);
        }
        made.with_context(|| format!("cannot make the disk of box {id}"))
    }

    async fn start(&self, id: u64) -> anyhow::Result<SocketAddr> {
        let member = self.member(id)?;
        let mut member = member.lock().await;
        if matches!(member.state, State::Running { .. }) {
            bail!("box {id} runs already");
        }
        member.state = State::Stopped;
        match self.backend.start(&member.files, member.link).await {
            Ok((machine, address)) => {
                let train = member.files.home.join(".spotter/sessions/train");
                let scenario = member.files.etc().join("gpu.scn");
                let gpu = tokio::spawn(gpu::follow(scenario, train, member.files.spec.clone()));
                member.state = State::Running { machine, gpu };
                info!(id, %address, "box started");
                Ok(address)
            }
            Err(err) => {
                self.halt(&mut member).await?;
                Err(err.context(format!("cannot start box {id}")))
            }
        }
    }

    async fn stop(&self, id: u64, grace: Duration) -> anyhow::Result<()> {
        let member = self.member(id)?;
        let mut member = member.lock().await;
        if let State::Running { machine, gpu } = &mut member.state {
            gpu.abort();
            machine
                .stop(grace)
                .await
                .with_context(|| format!("cannot stop box {id}"))?;
            info!(id, "box stopped");
        }
        member.state = State::Stopped;
        Ok(())
    }

    async fn lose_power(&self, id: u64) -> anyhow::Result<()> {
        let member = self.member(id)?;
        let mut member = member.lock().await;
        member.state = match std::mem::replace(&mut member.state, State::Stopped) {
            State::Running { mut machine, gpu } => {
                gpu.abort();
                machine.cut().await?;
                machine
                    .kill()
                    .await
                    .with_context(|| format!("cannot end box {id}"))?;
                info!(id, "box lost its power");
                State::Dark { _machine: machine }
            }
            other => other,
        };
        Ok(())
    }

    async fn destroy(&self, id: u64) -> anyhow::Result<()> {
        let shared = self.member(id)?;
        let mut member = shared.lock().await;
        self.halt(&mut member)
            .await
            .with_context(|| format!("cannot end box {id}"))?;
        member.state = State::Stopped;
        let (backend, files) = (Arc::clone(&self.backend), member.files.clone());
        spawn_blocking(move || {
            backend.remove_disk(&files)?;
            remove_tree(&files.root)
        })
        .await?
        .with_context(|| format!("cannot remove the disk of box {id}"))?;
        self.members().remove(&id);
        info!(id, "box destroyed");
        Ok(())
    }

    async fn set_keys(&self, id: u64, keys: Vec<String>) -> anyhow::Result<()> {
        let member = self.member(id)?;
        let member = member.lock().await;
        member.files.set_keys(&keys)
    }

    async fn link(&self, id: u64, fault: LinkFault) -> anyhow::Result<()> {
        let member = self.member(id)?;
        let mut member = member.lock().await;
        let link = member.link.after(&fault);
        if let State::Running { machine, .. } = &mut member.state {
            machine
                .set_link(link, fault == LinkFault::Reset)
                .await
                .with_context(|| format!("cannot do that to the line of box {id}"))?;
        }
        member.link = link;
        Ok(())
    }

    async fn home(&self, id: u64) -> anyhow::Result<PathBuf> {
        let member = self.member(id)?;
        let member = member.lock().await;
        Ok(member.files.home.clone())
    }

    async fn container_log(&self, id: u64) -> anyhow::Result<Vec<u8>> {
        // Not behind the box's lock: the log of a start that takes long is what people want to see.
        let path = self.instance.box_dir(id).join("container.log");
        self.member(id)?;
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    async fn shutdown(&self) -> anyhow::Result<()> {
        let ids: Vec<u64> = self.members().keys().copied().collect();
        for id in ids {
            self.destroy(id).await?;
        }
        Ok(())
    }
}

impl Drop for Fleet {
    /// What [`Boxes::shutdown`] did not get to do.
    fn drop(&mut self) {
        self.members().clear();
        if let Err(err) = self.instance.sweep() {
            warn!(
                error = format!("{err:#}"),
                "boxes were left behind; the next simulator in this directory removes them"
            );
        }
    }
}
