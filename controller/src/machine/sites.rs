//! The way to boxes: the agent that goes on them, the keys and the bucket of a run, and what a box that is gone left there.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use spotter_bucket::{Bucket, Ending, Layout, ListedObject, S3Bucket, Target, Vault, prove};

use super::{CONNECT, Machine, Machines, agent_failed, keys, local, not_connected, tunnel_failed};
use crate::{
    agent_client::{AgentClient, AgentEvent, SampleInfo},
    bootstrap::{self, AgentBinary, BootstrapError, Seat},
    clock::Clock,
    error::chain,
    run::site::{LeftLog, Place, Progress, Site, SiteError, Sites},
    spec::{BucketServer, RunSpec, WebhookFrom},
    tunnel::{self, Patience, Tunnel, TunnelError},
};

/// The file of this laptop that must not travel with the code.
fn private_file(spec: &RunSpec) -> Option<PathBuf> {
    match spec.notify.as_ref()?.webhook.as_ref()? {
        WebhookFrom::File(path) => Some(path.clone()),
        WebhookFrom::Shell => None,
    }
}

fn not_booted(err: BootstrapError) -> SiteError {
    match err {
        BootstrapError::Tunnel(err) => tunnel_failed(err),
        BootstrapError::Agent(err) => agent_failed(err),
        err => SiteError::Refused(chain(&err)),
    }
}

impl Machines {
    fn agent(&self) -> Result<Arc<AgentBinary>, SiteError> {
        if let Some(agent) = self.agent.get() {
            return Ok(Arc::clone(agent));
        }
        let found = AgentBinary::find(self.agent_path.as_deref(), &self.executable)
            .map_err(|err| SiteError::Local(chain(&err)))?;
        Ok(Arc::clone(self.agent.get_or_init(|| Arc::new(found))))
    }

    /// A client for a run's bucket with the keys of this laptop, and the layout of its objects; `None` without a bucket.
    pub(super) async fn bucket_of(
        &self,
        spec: &RunSpec,
    ) -> Result<Option<(S3Bucket, Layout)>, SiteError> {
        let checkpoints = spec.checkpoints.as_ref();
        let Some((kept, to)) = checkpoints.and_then(|kept| Some((kept, kept.to.as_deref()?)))
        else {
            return Ok(None);
        };
        let bucket = self.client(to, &kept.server).await?;
        let layout = Layout::new(&bucket.target().prefix, &spec.name).map_err(|err| local(&err))?;
        Ok(Some((bucket, layout)))
    }

    async fn client(&self, to: &str, server: &BucketServer) -> Result<S3Bucket, SiteError> {
        keys::client(&self.keys, to, server).await
    }

    /// The way that was found open is tried first from now on, by a person's ssh too.
    fn publish_way(&self, place: &Place, tunnel: &Tunnel) -> Result<(), TunnelError> {
        let Some(by) = tunnel.address() else {
            return Ok(());
        };
        let target = self.ssh.reached(tunnel.target().clone(), &by)?;
        self.ssh.publish(&place.run, &target)
    }

    fn machine(&self, tunnel: Tunnel, client: AgentClient, spec: &RunSpec) -> Arc<dyn Site> {
        Arc::new(Machine {
            tunnel,
            client,
            keys: Arc::clone(&self.keys),
            run: spec.name.clone(),
            checkpoints: spec.checkpoints.clone(),
            private: private_file(spec),
            paid: Mutex::new(None),
        })
    }
}

#[async_trait]
impl Sites for Machines {
    async fn public_key(&self) -> Result<String, SiteError> {
        tunnel::prove_ssh().await.map_err(tunnel_failed)?;
        self.ssh.public_key().await.map_err(tunnel_failed)
    }

    fn onstart(&self, spec: &RunSpec, provider_url: &str) -> Result<String, SiteError> {
        bootstrap::onstart(spec.bring_up(), provider_url, spec.onstart.as_deref())
            .map_err(|err| SiteError::Local(chain(&err)))
    }

    async fn prove_bucket(&self, spec: &RunSpec) -> Result<usize, SiteError> {
        // Before money is spent: the agent must be there as well.
        self.agent()?;
        let Some((bucket, layout)) = self.bucket_of(spec).await? else {
            return Ok(0);
        };
        prove(&bucket, &layout.data_prefix())
            .await
            .map_err(|err| SiteError::Refused(chain(&err)))?;
        let vault = Vault {
            bucket: &bucket,
            layout: &layout,
            run: &spec.name,
        };
        // By the server's clock, which has answered by now: a laptop's may be off.
        let offset_us = (bucket.clock_offset_s() * 1e6) as i64;
        let server_us = Clock::system().now_us().saturating_add(offset_us);
        let adopted = vault
            .adopt(server_us / 1_000_000)
            .await
            .map_err(|err| SiteError::Refused(chain(&err)))?;
        for passed_over in &adopted.passed_over {
            tracing::warn!(
                passed_over,
                "a checkpoint that waits in the bucket was not put in place"
            );
        }
        let commits = bucket
            .list(&layout.commits_prefix())
            .await
            .map_err(|err| SiteError::Refused(chain(&err)))?;
        let is_commit = |object: &&ListedObject| layout.commit_of_key(&object.key).is_some();
        Ok(commits.iter().filter(is_commit).count())
    }

    async fn keys_source(&self) -> Option<String> {
        self.keys.access().await.ok().map(|access| access.source)
    }

    async fn left_log(
        &self,
        spec: &RunSpec,
        attempt: u32,
        session: &str,
    ) -> Result<LeftLog, SiteError> {
        self.read_left_log(spec, attempt, session).await
    }

    async fn left_events(
        &self,
        spec: &RunSpec,
        attempt: u32,
    ) -> Result<Vec<AgentEvent>, SiteError> {
        self.read_left_events(spec, attempt).await
    }

    async fn left_samples(
        &self,
        spec: &RunSpec,
        attempt: u32,
    ) -> Result<Vec<SampleInfo>, SiteError> {
        self.read_left_samples(spec, attempt).await
    }

    async fn left_ending(&self, spec: &RunSpec, attempt: u32) -> Result<Option<Ending>, SiteError> {
        self.read_left_ending(spec, attempt).await
    }

    async fn open(
        &self,
        place: &Place,
        spec: &RunSpec,
        progress: Progress<'_>,
    ) -> Result<Arc<dyn Site>, SiteError> {
        let agent = self.agent()?;
        let target = self
            .ssh
            .target(place.provider, place.instance, place.addresses.clone())
            .await
            .map_err(tunnel_failed)?;
        self.ssh
            .publish(&place.run, &target)
            .map_err(tunnel_failed)?;
        let tunnel = Tunnel::connect(target, Patience::new_box(CONNECT))
            .await
            .map_err(not_connected)?;
        self.publish_way(place, &tunnel).map_err(tunnel_failed)?;
        let seat = match self.attended {
            true => Seat::Person,
            false => Seat::Program,
        };
        let ready = bootstrap::bootstrap(&tunnel, &agent, seat, progress)
            .await
            .map_err(not_booted)?;
        Ok(self.machine(tunnel, ready.client, spec))
    }

    async fn look(&self, place: &Place, spec: &RunSpec) -> Result<Arc<dyn Site>, SiteError> {
        let target = self
            .ssh
            .target(place.provider, place.instance, place.addresses.clone())
            .await
            .map_err(tunnel_failed)?;
        let tunnel = Tunnel::connect(target, Patience::known_box(CONNECT))
            .await
            .map_err(not_connected)?;
        if let Err(err) = self.publish_way(place, &tunnel) {
            tracing::debug!(%err, run = place.run, "where its box answers was not written down");
        }
        let client = bootstrap::look(&tunnel).await.map_err(not_booted)?;
        Ok(self.machine(tunnel, client, spec))
    }

    async fn bucket_server(&self, from_file: &BucketServer) -> Result<BucketServer, SiteError> {
        let access = self.keys.access().await.map_err(|err| local(&err))?;
        Ok(access.place.at(from_file).kept())
    }

    async fn bucket(
        &self,
        to: &str,
        server: &BucketServer,
    ) -> Result<(Arc<dyn Bucket>, Target), SiteError> {
        let bucket = self.client(to, server).await?;
        let target = bucket.target().clone();
        Ok((Arc::new(bucket), target))
    }

    fn forget(&self, place: &Place) {
        self.ssh.forget(&place.run, place.provider, place.instance);
    }
}
