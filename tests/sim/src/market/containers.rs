//! What the host does with a box while the contract says it may, and what it reports back.

use std::net::SocketAddr;

use crate::market::{
    Effect, InstanceId, Loading, Market, Millis, Refused,
    instance::{Container, Contract, Restart, Status, Step},
};

impl Market {
    /// A box started and ssh can connect.
    pub fn box_started(&mut self, now: Millis, id: InstanceId, epoch: u64, address: SocketAddr) {
        self.advance(now);
        let instance = self.at(id);
        let expected = instance.container == Container::Starting && instance.epoch == epoch;
        if !expected || instance.destroyed_ms.is_some() {
            return;
        }
        instance.container = Container::Up;
        instance.ended = false;
        instance.address = Some(address);
        instance.container_started_ms = Some(now);
        instance.status = Some(Status::Running);
        instance.status_msg = Some(format!(
            "success, running {}/ssh",
            instance.order.image.replace(':', "_")
        ));
        instance.metered = true;
        self.meter(id, now);
    }

    /// A box could not be started: like a failed pull, this stays `loading` for ever, with the reason as text.
    pub fn box_failed(&mut self, now: Millis, id: InstanceId, epoch: u64, reason: &str) {
        self.advance(now);
        let instance = self.at(id);
        if instance.container != Container::Starting || instance.epoch != epoch {
            return;
        }
        instance.container = Container::Down;
        instance.status = Some(Status::Loading);
        instance.status_msg = Some(format!("Error response from daemon: {reason}"));
        self.meter(id, now);
    }

    /// A box that was told to stop has stopped.
    pub fn box_stopped(&mut self, now: Millis, id: InstanceId) {
        self.advance(now);
        let exited_ms = self.delays.exited_ms;
        let instance = self.at(id);
        if instance.container != Container::Stopping || instance.destroyed_ms.is_some() {
            return;
        }
        instance.container = Container::Down;
        instance.address = None;
        let restart = instance.restart.take();
        let silent = matches!(instance.status, Some(Status::Unknown | Status::Offline));
        if restart.is_none() && !silent {
            let started = instance.container_started_ms.is_some();
            instance.exit_shows_ms = now + exited_ms;
            instance.status = Some(if started {
                Status::Exited
            } else {
                Status::Created
            });
        }
        self.meter(id, now);
        if restart == Some(Restart::Recycle) {
            self.push(Effect::Remake(id));
        }
        // It was started again while it stopped.
        let instance = &self.instances[&id];
        if instance.contract == Contract::Running && !instance.ended {
            self.bring_up(id, now);
        }
    }

    /// A container's process ends by itself: the contract runs on, and with it the GPU's charge.
    ///
    /// # Errors
    /// When the instance does not exist any more, or its container is not up.
    pub fn end_container(&mut self, now: Millis, id: InstanceId) -> Result<(), Refused> {
        self.stop_container(now, id)?;
        self.at(id).ended = true;
        Ok(())
    }

    /// The tenant wants its container stopped and started again; the GPUs stay its own.
    ///
    /// # Errors
    /// When the instance does not exist any more, or its container is not up.
    pub fn restart(
        &mut self,
        now: Millis,
        id: InstanceId,
        restart: Restart,
    ) -> Result<(), Refused> {
        self.stop_container(now, id)?;
        let instance = self.at(id);
        instance.restart = Some(restart);
        instance.status = Some(match restart {
            Restart::Reboot => Status::Rebooting,
            Restart::Recycle => Status::Recycling,
        });
        self.meter(id, now);
        Ok(())
    }

    fn stop_container(&mut self, now: Millis, id: InstanceId) -> Result<(), Refused> {
        self.advance(now);
        if self.living(id)?.container != Container::Up {
            return Err(Refused::Impossible(format!(
                "the container of instance {id} is not up"
            )));
        }
        self.at(id).container = Container::Stopping;
        self.push(Effect::Stop(id));
        Ok(())
    }

    /// The provider writes the keys of a box anew: what was added on the box itself is gone.
    ///
    /// # Errors
    /// When the instance does not exist any more.
    pub fn rewrite_keys(&mut self, now: Millis, id: InstanceId) -> Result<(), Refused> {
        self.advance(now);
        self.living(id)?;
        self.push(Effect::SetKeys(id));
        Ok(())
    }

    /// The machine of this instance loses power. Answers every instance that went with it.
    ///
    /// # Errors
    /// When the instance does not exist any more, or its host is lost already.
    pub fn lose_host(&mut self, now: Millis, id: InstanceId) -> Result<Vec<InstanceId>, Refused> {
        self.go_dark_at(now, id)
            .map(|machine| self.lose(machine, now))
    }

    /// The host of a machine loses power, and its heartbeats are missed.
    pub(crate) fn lose(&mut self, machine: usize, now: Millis) -> Vec<InstanceId> {
        let lost = self.go_dark(machine);
        let unknown = now + self.delays.unknown_ms;
        for id in &lost {
            let instance = self.at(*id);
            instance.next = Some((unknown, Step::Unknown));
            instance.address = None;
        }
        lost
    }

    /// The same, and the provider does not notice: whatever it said of these instances, it goes on saying, and charges for them.
    ///
    /// # Errors
    /// As with [`Market::lose_host`].
    pub fn lose_host_unnoticed(
        &mut self,
        now: Millis,
        id: InstanceId,
    ) -> Result<Vec<InstanceId>, Refused> {
        self.go_dark_at(now, id)
            .map(|machine| self.go_dark(machine))
    }

    /// The machine of an instance, which can be lost now.
    fn go_dark_at(&mut self, now: Millis, id: InstanceId) -> Result<usize, Refused> {
        self.advance(now);
        let machine = self.living(id)?.machine;
        if self.machines[machine].offline {
            let text = format!("the host of instance {id} is lost already");
            return Err(Refused::Impossible(text));
        }
        Ok(machine)
    }

    fn go_dark(&mut self, machine: usize) -> Vec<InstanceId> {
        self.machines[machine].offline = true;
        self.relist(machine);
        let lost = self.living_on(machine);
        for id in &lost {
            let instance = self.at(*id);
            instance.next = None;
            instance.restart = None;
            if instance.container != Container::Down {
                instance.container = Container::Down;
                self.push(Effect::LosePower(*id));
            }
        }
        lost
    }

    /// The machine of this instance is back: what should run starts anew on the same disk.
    ///
    /// # Errors
    /// When the instance does not exist any more, or its host was not lost.
    pub fn host_back(&mut self, now: Millis, id: InstanceId) -> Result<Vec<InstanceId>, Refused> {
        self.advance(now);
        let machine = self.living(id)?.machine;
        if !self.machines[machine].offline {
            return Err(Refused::Impossible(format!(
                "the host of instance {id} is not lost"
            )));
        }
        Ok(self.bring_back(machine, now))
    }

    /// The host of a machine is back.
    pub(crate) fn bring_back(&mut self, machine: usize, now: Millis) -> Vec<InstanceId> {
        self.machines[machine].offline = false;
        self.relist(machine);
        let back = self.living_on(machine);
        for id in &back {
            let restart = now + self.delays.restart_ms;
            let instance = self.at(*id);
            let runs = instance.contract == Contract::Running;
            let started = instance.container_started_ms.is_some();
            instance.metered = false;
            instance.address = None;
            instance.next = runs.then_some((restart, Step::Start));
            instance.status = Some(match (runs, started) {
                (true, _) => Status::Loading,
                (false, true) => Status::Exited,
                (false, false) => Status::Created,
            });
            self.meter(*id, now);
        }
        back
    }

    /// The contract was granted again: the container starts after the host's delay, at once if it was never created.
    pub(crate) fn bring_up(&mut self, id: InstanceId, now: Millis) {
        let restart = now + self.delays.restart_ms;
        let created = now + self.delays.created_ms;
        let instance = self.at(id);
        // A stop that is under way is waited for; a lost host has to come back first.
        if instance.container == Container::Down {
            let offline = self.machines[self.instances[&id].machine].offline;
            let instance = self.at(id);
            let started = instance.container_started_ms.is_some();
            instance.next = match (offline, started) {
                (true, _) => instance.next,
                (false, true) => Some((restart, Step::Start)),
                (false, false) => Some((created, Step::Created)),
            };
        }
        self.meter(id, now);
    }

    /// What was due for an instance.
    pub(crate) fn step(&mut self, id: InstanceId, now: Millis) {
        let Some((_, step)) = self.at(id).next.take() else {
            return;
        };
        let delays = self.delays;
        let loading = self.loading;
        let failure = self.pull_failure.clone();
        let instance = self.at(id);
        match step {
            Step::Created => {
                instance.status = Some(Status::Created);
                instance.next = Some((now + delays.loading_ms, Step::Loading));
            }
            Step::Loading => {
                instance.status = Some(Status::Loading);
                let pulling = "4f4fb700ef54: Pull complete\n0a9fb61ac2dd: Downloading";
                let said = failure.clone().unwrap_or_else(|| pulling.to_owned());
                instance.status_msg = Some(said);
                instance.next = match loading {
                    _ if failure.is_some() => None,
                    Loading::Normal => Some((now + delays.pull_ms, Step::Start)),
                    Loading::Seconds(seconds) => {
                        Some((now + (seconds * 1000.0) as Millis, Step::Start))
                    }
                    Loading::Forever => None,
                };
            }
            Step::Start => {
                if instance.contract == Contract::Running && instance.container == Container::Down {
                    instance.container = Container::Starting;
                    instance.epoch += 1;
                    let epoch = instance.epoch;
                    self.push(Effect::Start(id, epoch));
                }
            }
            Step::Resume => self.resume(id, now),
            Step::Unknown => {
                instance.status = Some(Status::Unknown);
                instance.next = Some((now + delays.offline_ms, Step::Offline));
            }
            Step::Offline => instance.status = Some(Status::Offline),
        }
        self.meter(id, now);
    }

    pub(crate) fn living_on(&self, machine: usize) -> Vec<InstanceId> {
        self.instances
            .values()
            .filter(|instance| instance.machine == machine && instance.destroyed_ms.is_none())
            .map(|instance| instance.id)
            .collect()
    }
}
