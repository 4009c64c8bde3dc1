//! What the host does with a box while the contract says it may, and what it reports back.

use std::net::SocketAddr;

use crate::market::{
    Effect, InstanceId, Loading, Market, Millis, Refused,
    instance::{Container, Contract, Status, Step},
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
        let instance = self.at(id);
        if instance.container != Container::Stopping || instance.destroyed_ms.is_some() {
            return;
        }
        instance.container = Container::Down;
        instance.address = None;
        if !matches!(instance.status, Some(Status::Unknown | Status::Offline)) {
            let started = instance.container_started_ms.is_some();
            instance.status = Some(if started {
                Status::Exited
            } else {
                Status::Created
            });
        }
        self.meter(id, now);
        // It was started again while it stopped.
        if self.instances[&id].contract == Contract::Running {
            self.bring_up(id, now);
        }
    }

    /// The machine of this instance loses power. Answers every instance that went with it.
    ///
    /// # Errors
    /// When the instance does not exist any more, or its host is lost already.
    pub fn lose_host(&mut self, now: Millis, id: InstanceId) -> Result<Vec<InstanceId>, Refused> {
        self.advance(now);
        let machine = self.living(id)?.machine;
        if self.machines[machine].offline {
            let text = format!("the host of instance {id} is lost already");
            return Err(Refused::Impossible(text));
        }
        self.machines[machine].offline = true;
        self.relist(machine);
        let lost = self.living_on(machine);
        let unknown = now + self.delays.unknown_ms;
        for id in &lost {
            let instance = self.at(*id);
            instance.next = Some((unknown, Step::Unknown));
            instance.address = None;
            if instance.container != Container::Down {
                instance.container = Container::Down;
                self.push(Effect::LosePower(*id));
            }
        }
        Ok(lost)
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
        self.machines[machine].offline = false;
        self.relist(machine);
        let back = self.living_on(machine);
        for id in &back {
            let restart = now + self.delays.restart_ms;
            let instance = self.at(*id);
            let runs = instance.contract == Contract::Running;
            let started = instance.container_started_ms.is_some();
            instance.metered = false;
            instance.next = runs.then_some((restart, Step::Start));
            instance.status = Some(match (runs, started) {
                (true, _) => Status::Loading,
                (false, true) => Status::Exited,
                (false, false) => Status::Created,
            });
            self.meter(*id, now);
        }
        Ok(back)
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
        let instance = self.at(id);
        match step {
            Step::Created => {
                instance.status = Some(Status::Created);
                instance.next = Some((now + delays.loading_ms, Step::Loading));
            }
            Step::Loading => {
                instance.status = Some(Status::Loading);
                instance.status_msg =
                    Some("4f4fb700ef54: Pull complete\n0a9fb61ac2dd: Downloading".to_owned());
                instance.next = match loading {
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

    fn living_on(&self, machine: usize) -> Vec<InstanceId> {
        self.instances
            .values()
            .filter(|instance| instance.machine == machine && instance.destroyed_ms.is_none())
            .map(|instance| instance.id)
            .collect()
    }
}
