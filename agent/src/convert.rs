//! Our types to contract types and back: the only file besides `handlers` that names the contract's messages.

use std::collections::{BTreeMap, VecDeque};

use nvml_probe::{GpuInfo, GpuProcess, Hello, MigDevice};
use prost::Message;
use spotter_bucket::{Batch, Best, Grant, profile::Whose};
use spotter_proto::v1;
use spotter_trainlog::live::Latest;

use crate::{
    checkpoints::{BackupState, CheckpointInfo, rates::Window},
    daemon::run_file::{BackupWish, Validation, Wish},
    files::HashedFile,
    journal::Entry,
    line::Line,
    logs::{Chunk, Position},
    preflight::{Check, Report},
    sessions::{Session, SessionState, again::Again},
    telemetry::{GpuSample, HostSample, ProcessSample, Sample},
    windows::{Expected, OnContradiction, Policy},
};

/// A journal entry as an event.
pub fn event(entry: Entry) -> v1::Event {
    v1::Event {
        seq: entry.seq,
        time_us: entry.time_us,
        kind: entry.kind,
        run: entry.run,
        attempt: entry.attempt,
        detail_json: entry.detail.to_string(),
    }
}

/// A session; `windows` names those that tmux shows now.
pub fn session(session: Session, windows: &[String]) -> v1::Session {
    let state = match session.state {
        SessionState::Running => v1::SessionState::Running,
        SessionState::Exited => v1::SessionState::Exited,
        SessionState::Signalled => v1::SessionState::Signalled,
        SessionState::Oom => v1::SessionState::Oom,
        SessionState::Stopped => v1::SessionState::Stopped,
        SessionState::Lost => v1::SessionState::Lost,
    };
    v1::Session {
        state: state.into(),
        exit_code: session.end.as_ref().and_then(|end| end.exit_code),
        signal: session.end.as_ref().and_then(|end| end.signal),
        started_us: session.start.started_us,
        ended_us: session.ended_us,
        pid: u32::try_from(session.start.pid).unwrap_or(0),
        log_bytes: session.log_bytes,
        tmux: windows.contains(&session.name),
        command: session.spec.command,
        name: session.name,
    }
}

/// How a session is started again. What it may not be started without is not kept either.
pub fn again(again: v1::Again, env: &BTreeMap<String, String>) -> Again {
    let env = match again.secrets.is_empty() {
        true => env.clone(),
        false => BTreeMap::new(),
    };
    Again {
        v: 1,
        fresh: again.fresh,
        resume: again.resume,
        secrets: again.secrets,
        times: again.times,
        env,
    }
}

/// A reading of the box.
pub fn sample(sample: Sample) -> v1::Sample {
    v1::Sample {
        time_us: sample.time_us,
        span_s: sample.span_s,
        processes: sample.processes.into_iter().map(process).collect(),
        gpus: sample.gpus.into_iter().map(gpu).collect(),
        host: sample.host.map(host),
    }
}

fn gpu(gpu: GpuSample) -> v1::GpuSample {
    let of = gpu.reading;
    v1::GpuSample {
        name: gpu.name.to_string(),
        uuid: gpu.uuid.to_string(),
        index: of.index,
        error: of.error,
        utilisation_percent: of.utilisation_percent,
        memory_used_bytes: of.memory_used_bytes,
        memory_total_bytes: of.memory_total_bytes,
        power_mw: of.power_mw,
        temperature_c: of.temperature_c,
        sm_clock_mhz: of.sm_clock_mhz,
        memory_clock_mhz: of.memory_clock_mhz,
        throttle_reasons: of.throttle_reasons,
        energy_mj: of.energy_mj,
        memory_busy_percent: of.memory_busy_percent,
        memory_temperature_c: of.memory_temperature_c,
        performance_state: of.performance_state,
        sm_active_percent: of.sm_active_percent,
        sm_occupancy_percent: of.sm_occupancy_percent,
        tensor_active_percent: of.tensor_active_percent,
        dram_active_percent: of.dram_active_percent,
        mig: of.mig.into_iter().map(mig).collect(),
        power_limit_mw: of.power_limit_mw,
        fan_percent: of.fan_percent,
        pcie_tx_bytes_per_s: of.pcie_tx_bytes_per_s,
        pcie_rx_bytes_per_s: of.pcie_rx_bytes_per_s,
        pcie_replays: of.pcie_replays,
        pcie_generation: of.pcie_generation,
        pcie_width: of.pcie_width,
        nvlink_tx_bytes_per_s: of.nvlink_tx_bytes_per_s,
        nvlink_rx_bytes_per_s: of.nvlink_rx_bytes_per_s,
        nvlinks_up: of.nvlinks_up,
        nvlink_errors: of.nvlink_errors,
        ecc_corrected: of.ecc_corrected,
        ecc_uncorrected: of.ecc_uncorrected,
        ecc_corrected_lifetime: of.ecc_corrected_lifetime,
        ecc_uncorrected_lifetime: of.ecc_uncorrected_lifetime,
        remapped_rows_corrected: of.remapped_rows_corrected,
        remapped_rows_uncorrected: of.remapped_rows_uncorrected,
        remap_pending: of.remap_pending,
        remap_failed: of.remap_failed,
        retired_pages_corrected: of.retired_pages_corrected,
        retired_pages_uncorrected: of.retired_pages_uncorrected,
        retirement_pending: of.retirement_pending,
        recovery_action: of.recovery_action,
        processes: of.processes.into_iter().map(gpu_process).collect(),
        xid_count: of.xid_count,
        last_xid: of.last_xid,
        last_xid_us: of.last_xid_us,
    }
}

fn mig(part: MigDevice) -> v1::MigSample {
    v1::MigSample {
        index: part.index,
        name: part.name,
        uuid: part.uuid,
        memory_used_bytes: part.memory_used_bytes,
        memory_total_bytes: part.memory_total_bytes,
    }
}

fn gpu_process(process: GpuProcess) -> v1::GpuProcess {
    v1::GpuProcess {
        pid: process.pid,
        memory_bytes: process.memory_bytes,
    }
}

/// What NVML says of driver and GPUs.
pub fn gpu_driver(hello: &Hello) -> v1::GpuDriver {
    let card = |gpu: &GpuInfo| v1::GpuCard {
        index: gpu.index,
        name: gpu.name.clone(),
        uuid: gpu.uuid.clone(),
        pci_bus_id: gpu.pci_bus_id.clone(),
        compute_capability: gpu.compute_capability,
        vbios: gpu.vbios.clone(),
        max_sm_clock_mhz: gpu.max_sm_clock_mhz,
        max_memory_clock_mhz: gpu.max_memory_clock_mhz,
        mig: gpu.mig,
    };
    v1::GpuDriver {
        version: hello.driver.clone(),
        cuda: hello.cuda,
        library: hello.library.clone(),
        gpus: hello.gpus.iter().map(card).collect(),
    }
}

fn host(host: HostSample) -> v1::HostSample {
    v1::HostSample {
        cpu_percent: host.cpu_percent,
        cpu_limit_cores: host.cpu_limit_cores,
        memory_used_bytes: host.memory_used_bytes,
        memory_limit_bytes: host.memory_limit_bytes,
        disk_free_bytes: host.disk_free_bytes,
        disk_total_bytes: host.disk_total_bytes,
        network_rx_bytes: host.network_rx_bytes,
        network_tx_bytes: host.network_tx_bytes,
        oom_kills: host.oom_kills,
        cpu_throttled_us: host.cpu_throttled_us,
        cpu_pressure_percent: host.cpu_pressure_percent,
        memory_pressure_percent: host.memory_pressure_percent,
        io_pressure_percent: host.io_pressure_percent,
        memory_limit_hits: host.memory_limit_hits,
        disk_read_bytes_per_s: host.disk_read_bytes_per_s,
        disk_write_bytes_per_s: host.disk_write_bytes_per_s,
        network_rx_bytes_per_s: host.network_rx_bytes_per_s,
        network_tx_bytes_per_s: host.network_tx_bytes_per_s,
        shm_free_bytes: host.shm_free_bytes,
        shm_total_bytes: host.shm_total_bytes,
    }
}

fn process(process: ProcessSample) -> v1::ProcessSample {
    v1::ProcessSample {
        pid: process.pid,
        name: process.name,
        cpu_percent: process.cpu_percent,
        memory_bytes: process.memory_bytes,
    }
}

/// What the trainer printed.
pub fn training(record: Latest) -> v1::TrainingRecord {
    v1::TrainingRecord {
        time_us: record.time_us,
        step: record.step,
        total_steps: record.total_steps,
        epoch: record.epoch,
        loss: record.loss,
        eval_loss: record.eval_loss,
        learning_rate: record.learning_rate,
        tokens_per_s: record.tokens_per_s,
        samples_per_s: record.samples_per_s,
        step_time_s: record.step_time_s,
        grad_norm: record.grad_norm,
    }
}

/// How the backup is doing.
///
/// `left`: what grants are left for and until when, where the box has these in place of keys.
pub fn backup(
    state: BackupState,
    keys_expire_us: Option<u64>,
    left: Option<(u32, u64)>,
) -> v1::BackupStatus {
    let (done_bytes, total_bytes) = match state.uploading_total_bytes {
        0 => (state.results_done_bytes, state.results_total_bytes),
        total_bytes => (state.uploading_done_bytes, total_bytes),
    };
    v1::BackupStatus {
        committed: state.committed,
        pending: state.pending,
        last_step: state.last_step,
        last_commit_us: state.last_commit_us,
        uploading_done_bytes: done_bytes,
        uploading_total_bytes: total_bytes,
        last_commit: state.last_commit,
        problem: state.problem,
        alarm: state.alarm,
        unsaved_bytes: state.unsaved_bytes,
        unsaved: state.unsaved,
        keys_expire_us: left.map_or(keys_expire_us.unwrap_or(0), |(_, ends_us)| ends_us),
        checkpoints_left: left.map(|(left, _)| left),
        at_stake: state
            .at_stake
            .into_iter()
            .map(|(path, size_bytes)| v1::AtStake { path, size_bytes })
            .collect(),
        unseen: state.unseen,
    }
}

/// Requests that were signed for this box.
pub fn grants(grants: v1::Grants) -> Batch {
    let grant = |grant: v1::Grant| Grant {
        key: grant.key,
        upload_id: grant.upload_id,
        signatures: grant.signatures,
    };
    Batch {
        query: grants.query,
        expires_us: grants.expires_us,
        grants: grants.grants.into_iter().map(grant).collect(),
    }
}

/// A committed checkpoint.
pub fn checkpoint(info: CheckpointInfo) -> v1::Checkpoint {
    v1::Checkpoint {
        id: info.id,
        step: info.step,
        attempt: info.attempt,
        committed_us: info.committed_us,
        size_bytes: info.size_bytes,
        files: info.files,
        path: info.path,
    }
}

/// A file with its hash.
pub fn file_hash(file: HashedFile) -> v1::FileHash {
    v1::FileHash {
        path: file.path,
        size_bytes: file.size_bytes,
        blake3: file.blake3,
    }
}

/// Bytes of a log.
pub fn log_chunk(chunk: Chunk, end: bool) -> v1::LogChunk {
    v1::LogChunk {
        position: Some(log_position(chunk.position)),
        data: chunk.data,
        end,
        gap_bytes: chunk.gap_bytes,
    }
}

fn log_position(position: Position) -> v1::LogPosition {
    v1::LogPosition {
        generation: position.generation,
        offset: position.offset,
    }
}

/// A place in a log, as the controller names it.
pub fn position(position: v1::LogPosition) -> Position {
    Position {
        generation: position.generation,
        offset: position.offset,
    }
}

/// What was found before the start.
pub fn preflight(report: Report) -> v1::PreflightResponse {
    let check = |check: Check| v1::Check {
        name: check.name.to_owned(),
        ok: check.ok,
        required: check.required,
        detail: check.detail,
    };
    v1::PreflightResponse {
        checks: report.checks.into_iter().map(check).collect(),
        can_self_stop: report.can_self_stop,
    }
}

/// Format of [`left_samples`].
const LEFT_SAMPLES: u32 = 1;

/// What a box that ends itself leaves of what it measured: the newest that take `most_bytes` at most.
pub fn left_samples(samples: impl Iterator<Item = Sample>, most_bytes: usize) -> Vec<u8> {
    let mut kept = VecDeque::new();
    let mut bytes = 0;
    for one in samples.map(sample) {
        bytes += one.encoded_len();
        kept.push_back(one);
        while bytes > most_bytes
            && let Some(oldest) = kept.pop_front()
        {
            bytes -= oldest.encoded_len();
        }
    }
    let left = v1::LeftSamples {
        version: LEFT_SAMPLES,
        samples: kept.into(),
    };
    left.encode_to_vec()
}

/// What the line of a box was seen to carry, or why it was not measured.
pub fn line(measured: Result<(Line, Whose), String>) -> v1::MeasureLineResponse {
    match measured {
        Ok((line, whose)) => v1::MeasureLineResponse {
            up_bytes_per_s: line.up_bytes_per_s.unwrap_or(0.0),
            down_bytes_per_s: line.down_bytes_per_s.unwrap_or(0.0),
            not_measured: match line.up_bytes_per_s {
                Some(_) => String::new(),
                None => "the bucket took nothing within 7 s, a second try included".to_owned(),
            },
            own_server: whose == Whose::Own,
        },
        Err(why) => v1::MeasureLineResponse {
            not_measured: why,
            ..v1::MeasureLineResponse::default()
        },
    }
}

/// What the controller asks the box to work for.
pub fn wish(request: v1::ConfigureRequest) -> Wish {
    let backup = request.backup.map(|backup| BackupWish {
        dir: backup.dir,
        target: backup.target,
        endpoint: backup.endpoint,
        region: backup.region,
        every_s: backup.every_s,
        keep_last: backup.keep_last,
        settle_ms: backup.settle_ms,
        complete_when: backup.complete_when,
        no_tripwire: backup.no_tripwire,
        max_bytes_per_s: backup.max_bytes_per_s,
        keep_every_steps: backup.keep_every_steps,
        keep_grace_s: backup.keep_grace_s,
        stop_when_behind: backup.stop_when_behind,
        keep_best: (backup.keep_best > 0).then_some(Best {
            metric: backup.best_metric,
            count: backup.keep_best,
            highest: backup.best_is_highest,
        }),
        style: backup.style,
        windows: backup
            .windows
            .into_iter()
            .map(|window| Window {
                from_min: window.from_min,
                to_min: window.to_min,
                max_bytes_per_s: Some(window.max_bytes_per_s).filter(|rate| *rate > 0),
            })
            .collect(),
        authorities: backup.authorities,
        presigned: backup.presigned,
        results: backup.results,
    });
    Wish {
        run: request.run,
        attempt: request.attempt,
        workdir: request.workdir,
        backup,
        bring_up_s: request.bring_up_s,
        idle_stop_s: request.idle_stop_s,
        provider_url: request.provider_url,
        progress: request.progress,
        micro_batch: request.micro_batch,
        validation: request.validation.map(validation),
        max_runtime_s: request.max_runtime_s,
        no_progress_s: request.no_progress_s,
        budget_left_s: request.budget_left_s,
        budget_finish_s: request.budget_finish_s,
        destroy_when_saved: request.destroy_when_saved,
    }
}

fn validation(config: v1::ValidationConfig) -> Validation {
    let known = |value: f64| Some(value).filter(|value| value.is_finite() && *value > 0.0);
    let on_contradiction = match config.on_contradiction.split_once(' ') {
        Some(("command", command)) => OnContradiction::Command(command.to_owned()),
        _ if config.on_contradiction == "stop" => OnContradiction::Stop,
        // What a newer controller may ask for beside: telling never harms.
        _ => OnContradiction::Alert,
    };
    Validation {
        window_s: config.window_s,
        policy: Policy {
            on_contradiction,
            go_on_unanswered: config.go_on_unanswered,
            accepted: config.accepted,
        },
        expected: Expected {
            tokens_per_s: known(config.predicted_tokens_per_s),
            tokens_per_step: known(config.tokens_per_step),
            gpus: config.gpus,
            early_checkpoint_s: config.early_checkpoint_s.into(),
        },
    }
}
