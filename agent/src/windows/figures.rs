//! The figures of one window (pure): the five that are always recorded, and the patterns that tell what holds a training up.

use serde::Serialize;
use spotter_trainlog::live::{Latest, Printed};

use super::median;

/// Observations of a kind that are kept for a median: at one a second, ten minutes have 600.
const KEPT: usize = 4096;
/// A GPU below this share of time is waiting, percent.
const WAITING_PERCENT: f64 = 20.0;
const GIB: f64 = (1_u64 << 30) as f64;
/// Clocks-event reasons that slow a GPU down against its will: hardware slowdown, software and hardware thermal, power brake.
const HELD_BACK: u64 = 0x8 | 0x20 | 0x40 | 0x80;

/// One look at a box, about once a second. Absent: not known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// When, microseconds since the epoch.
    pub time_us: u64,
    /// Every GPU that could be read.
    pub gpus: Vec<GpuReading>,
    /// CPU in use, of what the box may use, 0 to 1 and a little more.
    pub cpu_share: Option<f64>,
    /// CPU in use, cores.
    pub cpu_cores: Option<f64>,
    /// Share of time in which something of the box waited for a disk, percent (PSI).
    pub io_pressure_percent: Option<f64>,
    /// Processes waited for a disk at the last look at them.
    pub disk_blocked: Option<bool>,
    /// Read from disks, bytes per second.
    pub disk_read_bytes_per_s: Option<f64>,
    /// Free bytes of the working directory's disk.
    pub disk_free_bytes: Option<u64>,
    /// Bytes received by the box since its boot.
    pub network_rx_bytes: Option<u64>,
    /// Bytes of the training's log so far.
    pub log_bytes: u64,
    /// What the trainer printed last.
    pub training: Option<Latest>,
}

/// One GPU at one look.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GpuReading {
    /// Share of time in which a kernel ran, percent.
    pub utilisation_percent: Option<f64>,
    /// Share of time in which its memory was read or written, percent.
    pub memory_busy_percent: Option<f64>,
    /// Memory in use, bytes.
    pub memory_used_bytes: Option<u64>,
    /// Memory in all, bytes.
    pub memory_total_bytes: Option<u64>,
    /// Power, of the limit, 0 to 1.
    pub power_share: Option<f64>,
    /// PCIe traffic both ways, bytes per second.
    pub pcie_bytes_per_s: Option<f64>,
    /// Clocks-event reasons.
    pub throttle_reasons: u64,
}

/// What a window shows. Absent: it could not be seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Figures {
    /// When it began, microseconds since the epoch.
    pub from_us: u64,
    /// When it ended.
    pub to_us: u64,
    /// Looks at GPUs in it.
    pub samples: u64,
    /// Mean utilisation of all GPUs, percent.
    pub gpu_utilisation_percent: Option<f64>,
    /// Mean share of the GPUs' memory in use, percent.
    pub memory_percent: Option<f64>,
    /// Highest use of a GPU's memory, GiB.
    pub memory_peak_gib: Option<f64>,
    /// Memory of that GPU, GiB.
    pub memory_total_gib: Option<f64>,
    /// Median speed by the log, tokens per second of all GPUs as far as it prints that.
    pub tokens_per_s: Option<f64>,
    /// Median speed of one GPU, tokens per second, where the log says that it is of one.
    pub tokens_per_s_per_gpu: Option<f64>,
    /// Median seconds per step: as printed, else by the steps' own times.
    pub step_time_s: Option<f64>,
    /// Time to the last step at this pace, seconds.
    pub eta_s: Option<f64>,
    /// How much later (or, negative, sooner) the end is than the window before promised, seconds.
    pub eta_shift_s: Option<f64>,
    /// Newest step.
    pub step: Option<u64>,
    /// Steps that were made.
    pub steps: Option<u64>,
    /// Median of the training loss.
    pub loss: Option<f64>,
    /// Losses were printed, and none of them is a number.
    pub loss_broken: bool,
    /// Losses that are no numbers, the newest of the window in a row.
    #[serde(skip)]
    pub losses_broken: u32,
    /// Steps that are left, where the log tells how many there are in all.
    #[serde(skip)]
    pub steps_left: Option<u64>,
    /// The log told anything new of the training: an evaluation or a bar that moves, too.
    #[serde(skip)]
    pub moved: bool,
    /// When its log first and last told of another step, microseconds since the epoch.
    #[serde(skip)]
    pub stepped_us: Option<(u64, u64)>,
    /// Longest time between two of these, microseconds.
    #[serde(skip)]
    pub longest_pause_us: u64,
    /// Share of looks with the fullest GPU's memory above the limit of safety.
    pub memory_high_share: Option<f64>,
    /// Mean share of time in which GPU memory was read or written, percent.
    pub memory_busy_percent: Option<f64>,
    /// Share of looks at which a GPU waited.
    pub waiting_share: Option<f64>,
    /// Difference between the busiest and the idlest GPU, percentage points.
    pub gpu_spread_percent: Option<f64>,
    /// Mean power, of the limit.
    pub power_share: Option<f64>,
    /// Share of looks at which a GPU was held back by heat or by its supply.
    pub held_back_share: Option<f64>,
    /// Mean PCIe traffic of a GPU, MB/s.
    pub pcie_mb_per_s: Option<f64>,
    /// Mean CPU, of what the box may use.
    pub cpu_share: Option<f64>,
    /// Mean CPU, cores.
    pub cpu_cores: Option<f64>,
    /// Mean share of time in which something waited for a disk, percent.
    pub io_pressure_percent: Option<f64>,
    /// Share of looks at which a process waited for a disk.
    pub disk_blocked_share: Option<f64>,
    /// Read from disks, MB/s.
    pub disk_read_mb_per_s: Option<f64>,
    /// What was written to the disk and stayed, MB/s.
    pub disk_growth_mb_per_s: Option<f64>,
    /// Received from the network, MB/s.
    pub network_mb_per_s: Option<f64>,
    /// Printed to the log, KB/s.
    pub log_kb_per_s: Option<f64>,
    /// GPUs.
    pub gpus: usize,
}

/// A mean that grows.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    fn get(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// Gathers the looks of one window.
#[derive(Debug, Default)]
pub struct Tally {
    first: Option<Reading>,
    last: Option<Reading>,
    samples: u64,
    utilisation: Mean,
    of_each: Vec<Mean>,
    waiting: u64,
    memory: Mean,
    memory_busy: Mean,
    memory_high: u64,
    memory_peak: Option<(u64, u64)>,
    power: Mean,
    held_back: u64,
    pcie: Mean,
    cpu_share: Mean,
    cpu_cores: Mean,
    io_pressure: Mean,
    disk_blocked: Mean,
    disk_read: Mean,
    tokens_per_s: Vec<f64>,
    tokens_per_s_per_gpu: Vec<f64>,
    printed_step_time_s: Vec<f64>,
    step_times_s: Vec<f64>,
    losses: Vec<f64>,
    /// Whether a loss that is a number was printed.
    sound_loss: bool,
    /// Losses in a row that are none, up to the newest.
    losses_broken: u32,
    /// What `moved_us` was before this window.
    moved_before_us: u64,
    /// When another step was first seen, and when last.
    stepped_us: Option<(u64, u64)>,
    longest_pause_us: u64,
    /// Looks at which a GPU's memory could be read.
    memory_looks: u64,
    /// What was counted already: a value that was printed before is no value of this window, though it is still the newest.
    counted: Printed,
    /// The newest step with the time of the look that first showed it.
    at_step: Option<(u64, u64)>,
    first_step: Option<u64>,
}

impl Tally {
    /// An empty one, for which everything that was printed so far is old.
    pub fn after(training: Option<&Latest>) -> Tally {
        Tally::since(training.map_or_else(Printed::default, |training| training.printed))
    }

    /// The empty one that follows this one.
    pub fn next(&self) -> Tally {
        Tally::since(self.counted)
    }

    fn since(counted: Printed) -> Tally {
        Tally {
            counted,
            moved_before_us: counted.moved_us,
            ..Tally::default()
        }
    }

    /// Adds a look.
    pub fn add(&mut self, reading: &Reading, memory_limit_share: f64) {
        self.gpus(&reading.gpus, memory_limit_share);
        let blocked = |blocked: bool| f64::from(u8::from(blocked));
        for (mean, value) in [
            (&mut self.cpu_share, reading.cpu_share),
            (&mut self.cpu_cores, reading.cpu_cores),
            (&mut self.io_pressure, reading.io_pressure_percent),
            (&mut self.disk_blocked, reading.disk_blocked.map(blocked)),
            (&mut self.disk_read, reading.disk_read_bytes_per_s),
        ] {
            value.iter().for_each(|value| mean.add(*value));
        }
        let seen = self.last.as_ref().and_then(|last| last.training);
        if let Some(training) = reading.training
            && seen.is_none_or(|seen| seen.time_us != training.time_us)
        {
            self.training(&training, reading.time_us, seen.is_some());
        }
        if self.first.is_none() {
            self.first = Some(reading.clone());
        }
        self.last = Some(reading.clone());
    }

    fn gpus(&mut self, gpus: &[GpuReading], memory_limit_share: f64) {
        self.memory(gpus, memory_limit_share);
        for gpu in gpus {
            for (mean, value) in [
                (&mut self.memory_busy, gpu.memory_busy_percent),
                (&mut self.power, gpu.power_share),
                (&mut self.pcie, gpu.pcie_bytes_per_s),
            ] {
                value.iter().for_each(|value| mean.add(*value));
            }
        }
        let used: Vec<f64> = gpus
            .iter()
            .filter_map(|gpu| gpu.utilisation_percent)
            .collect();
        if used.is_empty() {
            return;
        }
        self.samples += 1;
        let mean = used.iter().sum::<f64>() / used.len() as f64;
        self.utilisation.add(mean);
        self.waiting += u64::from(mean < WAITING_PERCENT);
        self.of_each
            .resize(used.len().max(self.of_each.len()), Mean::default());
        for (mean, used) in self.of_each.iter_mut().zip(&used) {
            mean.add(*used);
        }
        let held_back = gpus.iter().any(|gpu| gpu.throttle_reasons & HELD_BACK != 0);
        self.held_back += u64::from(held_back);
    }

    /// Memory is told where utilisation is not: of a GPU that is split.
    fn memory(&mut self, gpus: &[GpuReading], memory_limit_share: f64) {
        let mut fullest = None::<f64>;
        for gpu in gpus {
            let (Some(used), Some(total)) = (gpu.memory_used_bytes, gpu.memory_total_bytes) else {
                continue;
            };
            let share = used as f64 / total.max(1) as f64;
            self.memory.add(share * 100.0);
            fullest = Some(fullest.map_or(share, |fullest| fullest.max(share)));
            let peak = self.memory_peak.get_or_insert((used, total));
            // By share: of GPUs of several sizes the one that is nearest to its end counts.
            if u128::from(used) * u128::from(peak.1) > u128::from(peak.0) * u128::from(total) {
                *peak = (used, total);
            }
        }
        self.memory_looks += u64::from(fullest.is_some());
        self.memory_high += u64::from(fullest.is_some_and(|share| share > memory_limit_share));
    }

    fn training(&mut self, training: &Latest, time_us: u64, follows: bool) {
        fn keep(kept: &mut Vec<f64>, value: Option<f64>) {
            if let Some(value) = value.filter(|_| kept.len() < KEPT) {
                kept.push(value);
            }
        }
        let (old, new) = (self.counted, training.printed);
        self.counted = new;
        keep(
            &mut self.tokens_per_s,
            training
                .tokens_per_s
                .filter(|_| new.tokens_per_s_us > old.tokens_per_s_us),
        );
        keep(
            &mut self.tokens_per_s_per_gpu,
            training
                .tokens_per_s_per_gpu
                .filter(|_| new.per_gpu_us > old.per_gpu_us),
        );
        keep(
            &mut self.printed_step_time_s,
            training
                .step_time_s
                .filter(|_| new.step_time_us > old.step_time_us),
        );
        if let Some(loss) = training.loss.filter(|_| new.loss_us > old.loss_us) {
            keep(&mut self.losses, Some(loss));
            self.sound_loss |= loss.is_finite();
            self.losses_broken = match loss.is_finite() {
                true => 0,
                false => self.losses_broken.saturating_add(1),
            };
        }
        let Some(step) = training.step else { return };
        self.first_step.get_or_insert(step);
        match self.at_step {
            Some((before, at_us)) if step > before => {
                let seconds = time_us.saturating_sub(at_us) as f64 / 1e6;
                // The first change has begun before it was looked for.
                if follows {
                    let each = seconds / (step - before) as f64;
                    keep(
                        &mut self.step_times_s,
                        Some(each).filter(|each| *each > 0.0),
                    );
                }
                self.at_step = Some((step, time_us));
                self.stepped(time_us);
            }
            // A counter that went back: another epoch, or a restart inside the session.
            Some((before, _)) if step < before => {
                self.at_step = Some((step, time_us));
                self.first_step = Some(step);
                self.stepped(time_us);
            }
            Some(_) => {}
            None => self.at_step = Some((step, time_us)),
        }
    }

    fn stepped(&mut self, time_us: u64) {
        let (first_us, last_us) = self.stepped_us.unwrap_or((time_us, time_us));
        let pause_us = time_us.saturating_sub(last_us);
        self.longest_pause_us = self.longest_pause_us.max(pause_us);
        self.stepped_us = Some((first_us, time_us));
    }

    /// Closes the window. `promised`: when the window before ended, and the time to the last step that it promised.
    pub fn figures(&self, promised: Option<(u64, f64)>) -> Figures {
        let (Some(first), Some(last)) = (&self.first, &self.last) else {
            return Figures::default();
        };
        let seconds = last.time_us.saturating_sub(first.time_us) as f64 / 1e6;
        let of = |count: u64, looks: u64| (looks > 0).then(|| count as f64 / looks as f64);
        let share = |count: u64| of(count, self.samples);
        let rate = |from: Option<u64>, to: Option<u64>| {
            let bytes = to?.checked_sub(from?)?;
            (seconds > 0.0).then(|| bytes as f64 / seconds)
        };
        let each: Vec<f64> = self.of_each.iter().filter_map(|mean| mean.get()).collect();
        let spread = each
            .iter()
            .copied()
            .reduce(f64::max)
            .zip(each.iter().copied().reduce(f64::min));
        let step_time_s = median(&self.printed_step_time_s).or_else(|| median(&self.step_times_s));
        let training = last.training;
        let left = training
            .and_then(|training| Some((training.total_steps?, training.step?)))
            .map(|(total, step)| total.saturating_sub(step));
        let eta_s = left.zip(step_time_s).map(|(left, each)| left as f64 * each);
        let eta_shift_s = eta_s.zip(promised).map(|(now, (then_us, promised))| {
            now - (promised - last.time_us.saturating_sub(then_us) as f64 / 1e6)
        });
        let step = self.at_step.map(|(step, _)| step);
        Figures {
            from_us: first.time_us,
            to_us: last.time_us,
            samples: self.samples,
            gpu_utilisation_percent: self.utilisation.get(),
            memory_percent: self.memory.get(),
            memory_peak_gib: self.memory_peak.map(|(used, _)| used as f64 / GIB),
            memory_total_gib: self.memory_peak.map(|(_, total)| total as f64 / GIB),
            tokens_per_s: median(&self.tokens_per_s),
            tokens_per_s_per_gpu: median(&self.tokens_per_s_per_gpu),
            step_time_s,
            eta_s,
            eta_shift_s,
            step,
            steps: step
                .zip(self.first_step)
                .map(|(last, first)| last.saturating_sub(first)),
            loss: median(&self.losses),
            loss_broken: !self.losses.is_empty() && !self.sound_loss,
            losses_broken: self.losses_broken,
            steps_left: left,
            moved: training.is_some_and(|new| new.printed.moved_us > self.moved_before_us),
            stepped_us: self.stepped_us,
            longest_pause_us: self.longest_pause_us,
            memory_high_share: of(self.memory_high, self.memory_looks),
            memory_busy_percent: self.memory_busy.get(),
            waiting_share: share(self.waiting),
            gpu_spread_percent: spread
                .filter(|_| each.len() > 1)
                .map(|(most, least)| most - least),
            power_share: self.power.get(),
            held_back_share: share(self.held_back),
            pcie_mb_per_s: self.pcie.get().map(|bytes| bytes / 1e6),
            cpu_share: self.cpu_share.get(),
            cpu_cores: self.cpu_cores.get(),
            io_pressure_percent: self.io_pressure.get(),
            disk_blocked_share: self.disk_blocked.get(),
            disk_read_mb_per_s: self.disk_read.get().map(|bytes| bytes / 1e6),
            disk_growth_mb_per_s: rate(last.disk_free_bytes, first.disk_free_bytes)
                .map(|bytes| bytes / 1e6),
            network_mb_per_s: rate(first.network_rx_bytes, last.network_rx_bytes)
                .map(|bytes| bytes / 1e6),
            log_kb_per_s: rate(Some(first.log_bytes), Some(last.log_bytes))
                .map(|bytes| bytes / 1e3),
            gpus: self.of_each.len(),
        }
    }
}

#[cfg(test)]
mod tests;
