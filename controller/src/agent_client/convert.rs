//! Contract messages to our types and back (pure).

use prost::Message;
use spotter_bucket::{Batch, Grant};
use spotter_proto::v1;

use super::types::*;

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn nonzero(value: u64) -> Option<u64> {
    (value != 0).then_some(value)
}

impl From<v1::StatusResponse> for AgentStatus {
    fn from(m: v1::StatusResponse) -> Self {
        AgentStatus {
            version: m.version,
            build: m.build,
            now_us: m.now_us,
            started_us: m.started_us,
            boot: m.boot,
            run: some(m.run),
            attempt: m.attempt,
            last_event: m.last_event,
            oldest_unacknowledged_event: m.oldest_unacknowledged_event,
            sessions: m.sessions.into_iter().map(SessionInfo::from).collect(),
            sample: m.sample.map(SampleInfo::from),
            training: m.training.map(TrainingInfo::from),
            backup: m.backup.map(BackupInfo::from),
            gpu_problem: some(m.gpu_problem),
            gpu_driver: m.gpu_driver.map(DriverInfo::from),
        }
    }
}

/// What a box that is gone left of what it measured, oldest first; of what cannot be read, or is of a newer format, nothing.
pub fn left_samples(bytes: &[u8]) -> Vec<SampleInfo> {
    let mut samples: Vec<SampleInfo> = match v1::LeftSamples::decode(bytes) {
        Ok(left) if left.version == 1 => left.samples.into_iter().map(SampleInfo::from).collect(),
        _ => Vec::new(),
    };
    samples.sort_by_key(|sample| sample.time_us);
    samples
}

impl From<v1::Session> for SessionInfo {
    fn from(m: v1::Session) -> Self {
        let state = match m.state() {
            v1::SessionState::Running => SessionState::Running,
            v1::SessionState::Exited => SessionState::Exited,
            v1::SessionState::Signalled => SessionState::Signalled,
            v1::SessionState::Oom => SessionState::Oom,
            v1::SessionState::Stopped => SessionState::Stopped,
            // A state that a newer agent knows and we do not: whatever it is, the command's end is not on record here.
            v1::SessionState::Lost | v1::SessionState::Unspecified => SessionState::Lost,
        };
        SessionInfo {
            name: m.name,
            state,
            exit_code: m.exit_code,
            signal: m.signal,
            started_us: m.started_us,
            ended_us: nonzero(m.ended_us),
            pid: m.pid,
            log_bytes: m.log_bytes,
            tmux: m.tmux,
            command: m.command,
        }
    }
}

impl From<v1::Event> for AgentEvent {
    fn from(m: v1::Event) -> Self {
        let detail = match serde_json::from_str(&m.detail_json) {
            Ok(detail @ serde_json::Value::Object(_)) => detail,
            _ if m.detail_json.is_empty() => serde_json::json!({}),
            _ => serde_json::json!({ "text": m.detail_json }),
        };
        AgentEvent {
            seq: m.seq,
            time_us: m.time_us,
            kind: m.kind,
            run: m.run,
            attempt: m.attempt,
            detail,
        }
    }
}

impl From<v1::Sample> for SampleInfo {
    fn from(m: v1::Sample) -> Self {
        SampleInfo {
            time_us: m.time_us,
            span_s: m.span_s,
            gpus: m.gpus.into_iter().map(GpuInfo::from).collect(),
            host: m.host.map(HostInfo::from),
            processes: m.processes.into_iter().map(ProcessInfo::from).collect(),
        }
    }
}

impl From<v1::GpuSample> for GpuInfo {
    fn from(m: v1::GpuSample) -> Self {
        GpuInfo {
            index: m.index,
            name: m.name,
            uuid: m.uuid,
            error: m.error,
            utilisation_percent: m.utilisation_percent,
            memory_used_bytes: m.memory_used_bytes,
            memory_total_bytes: m.memory_total_bytes,
            power_mw: m.power_mw,
            temperature_c: m.temperature_c,
            sm_clock_mhz: m.sm_clock_mhz,
            memory_clock_mhz: m.memory_clock_mhz,
            throttle_reasons: m.throttle_reasons,
            energy_mj: m.energy_mj,
            memory_busy_percent: m.memory_busy_percent,
            memory_temperature_c: m.memory_temperature_c,
            performance_state: m.performance_state,
            sm_active_percent: m.sm_active_percent,
            sm_occupancy_percent: m.sm_occupancy_percent,
            tensor_active_percent: m.tensor_active_percent,
            dram_active_percent: m.dram_active_percent,
            mig: m.mig.into_iter().map(MigInfo::from).collect(),
            power_limit_mw: m.power_limit_mw,
            fan_percent: m.fan_percent,
            pcie_tx_bytes_per_s: m.pcie_tx_bytes_per_s,
            pcie_rx_bytes_per_s: m.pcie_rx_bytes_per_s,
            pcie_replays: m.pcie_replays,
            pcie_generation: m.pcie_generation,
            pcie_width: m.pcie_width,
            nvlink_tx_bytes_per_s: m.nvlink_tx_bytes_per_s,
            nvlink_rx_bytes_per_s: m.nvlink_rx_bytes_per_s,
            nvlinks_up: m.nvlinks_up,
            nvlink_errors: m.nvlink_errors,
            ecc_corrected: m.ecc_corrected,
            ecc_uncorrected: m.ecc_uncorrected,
            ecc_corrected_lifetime: m.ecc_corrected_lifetime,
            ecc_uncorrected_lifetime: m.ecc_uncorrected_lifetime,
            remapped_rows_corrected: m.remapped_rows_corrected,
            remapped_rows_uncorrected: m.remapped_rows_uncorrected,
            remap_pending: m.remap_pending,
            remap_failed: m.remap_failed,
            retired_pages_corrected: m.retired_pages_corrected,
            retired_pages_uncorrected: m.retired_pages_uncorrected,
            retirement_pending: m.retirement_pending,
            recovery_action: m.recovery_action,
            processes: m.processes.into_iter().map(GpuProcessInfo::from).collect(),
            xid_count: m.xid_count,
            last_xid: m.last_xid,
            last_xid_us: m.last_xid_us,
        }
    }
}

impl From<v1::ProcessSample> for ProcessInfo {
    fn from(m: v1::ProcessSample) -> Self {
        ProcessInfo {
            pid: m.pid,
            name: m.name,
            cpu_percent: m.cpu_percent,
            memory_bytes: m.memory_bytes,
        }
    }
}

impl From<v1::GpuProcess> for GpuProcessInfo {
    fn from(m: v1::GpuProcess) -> Self {
        GpuProcessInfo {
            pid: m.pid,
            memory_bytes: m.memory_bytes,
        }
    }
}

impl From<v1::MigSample> for MigInfo {
    fn from(m: v1::MigSample) -> Self {
        MigInfo {
            index: m.index,
            name: m.name,
            uuid: m.uuid,
            memory_used_bytes: m.memory_used_bytes,
            memory_total_bytes: m.memory_total_bytes,
        }
    }
}

impl From<v1::GpuDriver> for DriverInfo {
    fn from(m: v1::GpuDriver) -> Self {
        DriverInfo {
            version: m.version,
            cuda: m.cuda,
            library: m.library,
            gpus: m.gpus.into_iter().map(CardInfo::from).collect(),
        }
    }
}

impl From<v1::GpuCard> for CardInfo {
    fn from(m: v1::GpuCard) -> Self {
        CardInfo {
            index: m.index,
            name: m.name,
            uuid: m.uuid,
            pci_bus_id: m.pci_bus_id,
            compute_capability: m.compute_capability,
            vbios: m.vbios,
            max_sm_clock_mhz: m.max_sm_clock_mhz,
            max_memory_clock_mhz: m.max_memory_clock_mhz,
            mig: m.mig,
        }
    }
}

impl From<v1::HostSample> for HostInfo {
    fn from(m: v1::HostSample) -> Self {
        HostInfo {
            cpu_percent: m.cpu_percent,
            cpu_limit_cores: m.cpu_limit_cores,
            memory_used_bytes: m.memory_used_bytes,
            memory_limit_bytes: m.memory_limit_bytes,
            disk_free_bytes: m.disk_free_bytes,
            disk_total_bytes: m.disk_total_bytes,
            network_rx_bytes: m.network_rx_bytes,
            network_tx_bytes: m.network_tx_bytes,
            oom_kills: m.oom_kills,
            cpu_throttled_us: m.cpu_throttled_us,
            cpu_pressure_percent: m.cpu_pressure_percent,
            memory_pressure_percent: m.memory_pressure_percent,
            io_pressure_percent: m.io_pressure_percent,
            memory_limit_hits: m.memory_limit_hits,
            disk_read_bytes_per_s: m.disk_read_bytes_per_s,
            disk_write_bytes_per_s: m.disk_write_bytes_per_s,
            network_rx_bytes_per_s: m.network_rx_bytes_per_s,
            network_tx_bytes_per_s: m.network_tx_bytes_per_s,
            shm_free_bytes: m.shm_free_bytes,
            shm_total_bytes: m.shm_total_bytes,
        }
    }
}

impl From<v1::TrainingRecord> for TrainingInfo {
    fn from(m: v1::TrainingRecord) -> Self {
        TrainingInfo {
            time_us: m.time_us,
            step: m.step,
            total_steps: m.total_steps,
            epoch: m.epoch,
            loss: m.loss,
            eval_loss: m.eval_loss,
            learning_rate: m.learning_rate,
            tokens_per_s: m.tokens_per_s,
            samples_per_s: m.samples_per_s,
            step_time_s: m.step_time_s,
            grad_norm: m.grad_norm,
        }
    }
}

/// What was signed for a box.
pub fn grants(batch: Batch) -> v1::Grants {
    let grant = |grant: Grant| v1::Grant {
        key: grant.key,
        upload_id: grant.upload_id,
        signatures: grant.signatures,
    };
    v1::Grants {
        query: batch.query,
        expires_us: batch.expires_us,
        grants: batch.grants.into_iter().map(grant).collect(),
    }
}

impl From<v1::BackupStatus> for BackupInfo {
    fn from(m: v1::BackupStatus) -> Self {
        BackupInfo {
            committed: m.committed,
            pending: m.pending,
            last_step: m.last_step,
            last_commit_us: nonzero(m.last_commit_us),
            last_commit: some(m.last_commit),
            uploading_done_bytes: m.uploading_done_bytes,
            uploading_total_bytes: m.uploading_total_bytes,
            problem: some(m.problem),
            alarm: m.alarm,
            unsaved_bytes: m.unsaved_bytes,
            unsaved: m.unsaved,
            unseen: m.unseen,
            keys_expire_us: nonzero(m.keys_expire_us),
            checkpoints_left: m.checkpoints_left,
            at_stake: m
                .at_stake
                .into_iter()
                .map(|one| (one.path, one.size_bytes))
                .collect(),
        }
    }
}

impl From<v1::Checkpoint> for CheckpointInfo {
    fn from(m: v1::Checkpoint) -> Self {
        CheckpointInfo {
            id: m.id,
            step: m.step,
            attempt: m.attempt,
            committed_us: m.committed_us,
            size_bytes: m.size_bytes,
            files: m.files,
            path: m.path,
        }
    }
}

impl From<v1::FileHash> for FileHash {
    fn from(m: v1::FileHash) -> Self {
        FileHash {
            path: m.path,
            size_bytes: m.size_bytes,
            blake3: m.blake3,
        }
    }
}

impl From<v1::Check> for CheckResult {
    fn from(m: v1::Check) -> Self {
        CheckResult {
            name: m.name,
            ok: m.ok,
            required: m.required,
            detail: m.detail,
        }
    }
}

impl From<v1::LogChunk> for LogPiece {
    fn from(m: v1::LogChunk) -> Self {
        let position = m.position.unwrap_or_default();
        LogPiece {
            position: LogPosition {
                generation: position.generation,
                offset: position.offset,
            },
            data: m.data,
            gap_bytes: m.gap_bytes,
            end: m.end,
        }
    }
}

impl From<LogPosition> for v1::LogPosition {
    fn from(position: LogPosition) -> Self {
        v1::LogPosition {
            generation: position.generation,
            offset: position.offset,
        }
    }
}

/// Whole seconds for the contract, rounded up so that a short time never becomes "never".
fn seconds(duration: std::time::Duration) -> u32 {
    u32::try_from(duration.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}

impl From<&BoxConfig> for v1::ConfigureRequest {
    fn from(config: &BoxConfig) -> Self {
        v1::ConfigureRequest {
            run: config.run.clone(),
            attempt: config.attempt,
            workdir: config.workdir.clone(),
            backup: config.backup.as_ref().map(|backup| v1::BackupConfig {
                dir: backup.dir.clone(),
                target: backup.target.clone(),
                endpoint: backup.endpoint.clone().unwrap_or_default(),
                region: backup.region.clone().unwrap_or_default(),
                every_s: seconds(backup.every),
                keep_last: backup.keep_last,
                keep_every_steps: backup.keep_every_steps,
                keep_grace_s: seconds(backup.keep_grace),
                keep_best: backup.keep_best.as_ref().map_or(0, |best| best.count),
                best_metric: backup
                    .keep_best
                    .as_ref()
                    .map_or_else(String::new, |best| best.metric.clone()),
                best_is_highest: backup.keep_best.as_ref().is_some_and(|best| best.highest),
                stop_when_behind: backup.stop_when_behind,
                settle_ms: backup.settle.map_or(0, |settle| {
                    u32::try_from(settle.as_millis()).unwrap_or(u32::MAX)
                }),
                complete_when: backup.complete_when.clone().unwrap_or_default(),
                no_tripwire: !backup.tripwire,
                max_bytes_per_s: backup.max_bytes_per_s.unwrap_or(0),
                style: backup.style.word().to_owned(),
                windows: backup
                    .windows
                    .iter()
                    .map(|window| v1::UploadWindow {
                        from_min: window.from_min,
                        to_min: window.to_min,
                        max_bytes_per_s: window.max_bytes_per_s.unwrap_or(0),
                    })
                    .collect(),
                authorities: backup.authorities.clone(),
                presigned: backup.presigned,
                results: backup.results.clone(),
            }),
            bring_up_s: seconds(config.bring_up),
            idle_stop_s: config.idle_stop.map_or(0, seconds),
            provider_url: config.provider_url.clone(),
            progress: config.progress.clone().unwrap_or_default(),
            micro_batch: config.micro_batch.unwrap_or(0),
            validation: Some((&config.validation).into()),
            max_runtime_s: config.max_runtime.map_or(0, |left| seconds(left).max(1)),
            no_progress_s: config.no_progress.map_or(0, seconds),
            // 0 would be no limit.
            budget_left_s: config
                .allowance
                .map_or(0, |allowance| seconds(allowance.left).max(1)),
            budget_finish_s: config
                .allowance
                .map_or(0, |allowance| seconds(allowance.finish)),
            destroy_when_saved: config.destroy_when_saved,
        }
    }
}

impl From<&ValidationConfig> for v1::ValidationConfig {
    fn from(config: &ValidationConfig) -> Self {
        v1::ValidationConfig {
            window_s: seconds(config.window),
            on_contradiction: config.on_contradiction.clone(),
            go_on_unanswered: config.go_on_unanswered,
            accepted: config.accepted,
            early_checkpoint_s: seconds(config.early_checkpoint),
            predicted_tokens_per_s: config.predicted_tokens_per_s.unwrap_or(0.0),
            tokens_per_step: config.tokens_per_step.unwrap_or(0.0),
            gpus: config.gpus,
        }
    }
}

impl From<&SessionRequest> for v1::StartSessionRequest {
    fn from(request: &SessionRequest) -> Self {
        v1::StartSessionRequest {
            name: request.name.clone(),
            command: request.command.clone(),
            env: request.env.iter().cloned().collect(),
            dir: request.dir.clone().unwrap_or_default(),
            timeout_s: request.timeout.map_or(0, seconds),
            again: request.again.clone().map(|again| v1::Again {
                fresh: again.fresh,
                resume: again.resume,
                secrets: again.secrets,
                times: again.times,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_details_are_always_an_object() {
        let check = |text: &str, expected: serde_json::Value| {
            let event = AgentEvent::from(v1::Event {
                detail_json: text.to_owned(),
                ..Default::default()
            });
            assert_eq!(event.detail, expected, "{text}");
        };
        check(r#"{"a":1}"#, serde_json::json!({"a": 1}));
        check("", serde_json::json!({}));
        check("[1]", serde_json::json!({"text": "[1]"}));
        check("{broken", serde_json::json!({"text": "{broken"}));
    }

    #[test]
    fn a_state_from_the_future_is_not_taken_for_running() {
        let session = SessionInfo::from(v1::Session {
            state: 99,
            ..Default::default()
        });
        assert_eq!(session.state, SessionState::Lost);
        assert!(!session.ended_well());
    }

    #[test]
    fn half_a_second_is_not_never() {
        assert_eq!(seconds(std::time::Duration::from_millis(500)), 1);
        assert_eq!(seconds(std::time::Duration::ZERO), 0);
    }
}
