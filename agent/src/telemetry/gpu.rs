//! `GpuBoard`: the newest word of the probe, written by the thread that supervises it and read by the sampling loop.
//!
//! Reading never waits for a GPU. What is too old is not shown as if it were fresh: it becomes a problem with a reason.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nvml_probe::{Failure, Gpu, Hello};
use serde_json::json;

use super::GpuSample;
use super::history::unpack_gpu;
use crate::events::EventSink;

/// Intervals after which a reading is no longer the present: two late ones are forgiven.
const FRESH_INTERVALS: u32 = 4;

/// What is known about the GPUs at this moment.
pub struct GpuBoard {
    state: Mutex<State>,
    events: Arc<dyn EventSink>,
    fresh: Duration,
}

#[derive(Default)]
struct State {
    names: Vec<(Arc<str>, Arc<str>)>,
    reading: Option<(Instant, Vec<Gpu>)>,
    /// Why there is no reading, or not of every GPU; empty when all is well.
    problem: String,
}

impl GpuBoard {
    /// An empty board; readings stay valid for a few `interval`s.
    pub fn new(events: Arc<dyn EventSink>, interval: Duration) -> Self {
        let state = Mutex::new(State::default());
        // Below a second the scheduler of a busy box would make readings flicker.
        let fresh = (interval * FRESH_INTERVALS).max(Duration::from_secs(4));
        Self {
            state,
            events,
            fresh,
        }
    }

    /// The probe works and has named its GPUs.
    pub fn greet(&self, hello: &Hello) {
        let names = hello
            .gpus
            .iter()
            .map(|gpu| (gpu.name.as_str().into(), gpu.uuid.as_str().into()))
            .collect();
        let mut state = self.lock();
        state.names = names;
        state.reading = None;
    }

    /// The probe has read its GPUs.
    pub fn update(&self, gpus: Vec<Gpu>) {
        let problem = problem_of(&gpus);
        self.lock().reading = Some((Instant::now(), gpus));
        self.set_problem(&problem);
    }

    /// There will be no reading for now.
    pub fn fail(&self, problem: &str) {
        self.lock().reading = None;
        self.set_problem(problem);
    }

    /// States the problem; an event is recorded when it is a new one, or the last one is over.
    pub fn set_problem(&self, problem: &str) {
        {
            let mut state = self.lock();
            if state.problem == problem {
                return;
            }
            problem.clone_into(&mut state.problem);
        }
        // Not under the lock: recording an event may wait for the disk.
        let detail = json!({ "problem": problem, "resolved": problem.is_empty() });
        self.events.event("gpu.problem", detail);
    }

    /// Why there is no reading, or not of every GPU; empty when all is well, and until the probe had its chance.
    pub fn problem(&self) -> String {
        let state = self.lock();
        match &state.reading {
            Some((taken, _)) if state.problem.is_empty() && taken.elapsed() > self.fresh => {
                format!(
                    "the NVML probe has been silent for {} s",
                    taken.elapsed().as_secs()
                )
            }
            _ => state.problem.clone(),
        }
    }

    /// The newest reading with names, while it is fresh.
    pub fn samples(&self) -> Vec<GpuSample> {
        let state = self.lock();
        let Some((_, gpus)) = state
            .reading
            .as_ref()
            .filter(|(taken, _)| taken.elapsed() <= self.fresh)
        else {
            return Vec::new();
        };
        let name = |place: usize| state.names.get(place).cloned().unwrap_or_default();
        let named = gpus
            .iter()
            .enumerate()
            .map(|(place, gpu)| (gpu, name(place)));
        named
            .map(|(gpu, (name, uuid))| unpack_gpu(gpu, name, uuid))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds the board")
    }
}

/// Which GPUs cannot be read, in words.
fn problem_of(gpus: &[Gpu]) -> String {
    let words: Vec<String> = gpus
        .iter()
        .filter(|gpu| gpu.error != 0)
        .map(|gpu| {
            format!(
                "GPU {} cannot be read: {}",
                gpu.index,
                error_text(gpu.error)
            )
        })
        .collect();
    words.join("; ")
}

/// An NVML code as a person would say it.
fn error_text(code: u32) -> String {
    let text = match code {
        4 => "no permission",
        9 => "the driver is not loaded",
        15 => "it fell off the bus",
        16 => "it needs a reset",
        18 => "driver and library are of different versions",
        999 => "NVML says only `unknown error`",
        _ => return format!("NVML error {code}"),
    };
    format!("{text} (NVML error {code})")
}

/// What a probe that cannot work means for the user, with what NVML or the loader said.
pub fn failure_text(failure: Failure, said: &str) -> String {
    let meaning = match failure {
        Failure::NoLibrary => {
            "no libnvidia-ml.so.1 can be loaded on this box (set NVML_LIB where it is in an odd place)"
        }
        Failure::NoDriver => {
            "the NVIDIA driver is not loaded, or its devices are not in the container"
        }
        Failure::Mismatch => {
            "NVIDIA driver and library are of different versions: the host was upgraded without a restart"
        }
        Failure::NoPermission => "the GPUs may not be opened",
        Failure::NoGpu => "the NVIDIA driver works but sees no GPU",
        Failure::Init => "NVML cannot be initialised",
    };
    if said.is_empty() {
        meaning.to_owned()
    } else {
        format!("{meaning}: {said}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::RecordedEvents;
    use nvml_probe::GpuInfo;

    fn board() -> (Arc<RecordedEvents>, GpuBoard) {
        let events = Arc::new(RecordedEvents::default());
        (
            events.clone(),
            GpuBoard::new(events, Duration::from_secs(1)),
        )
    }

    fn hello() -> Hello {
        let info = |index| GpuInfo {
            index,
            name: "NVIDIA L4".into(),
            uuid: format!("GPU-{index}"),
        };
        Hello {
            gpus: (0..2).map(info).collect(),
            ..Hello::default()
        }
    }

    fn kinds(events: &RecordedEvents) -> Vec<String> {
        events
            .0
            .lock()
            .unwrap()
            .iter()
            .map(|(_, detail)| detail["problem"].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn a_lost_gpu_is_a_problem_with_its_index_and_the_others_go_on() {
        let (events, board) = board();
        board.greet(&hello());
        assert!(board.samples().is_empty());
        let well = Gpu {
            power_mw: Some(70_000),
            ..Gpu::default()
        };
        board.update(vec![
            well.clone(),
            Gpu {
                index: 1,
                ..well.clone()
            },
        ]);
        assert_eq!(
            (board.problem(), kinds(&events).len()),
            (String::new(), 0),
            "starting well is no event"
        );

        for _ in 0..3 {
            board.update(vec![
                well.clone(),
                Gpu {
                    index: 1,
                    error: 15,
                    ..Gpu::default()
                },
            ]);
        }
        assert_eq!(
            board.problem(),
            "GPU 1 cannot be read: it fell off the bus (NVML error 15)"
        );
        let samples = board.samples();
        assert_eq!(
            (samples[0].power_mw, &*samples[1].uuid, samples[1].error),
            (Some(70_000), "GPU-1", 15)
        );

        board.update(vec![well.clone(), Gpu { index: 1, ..well }]);
        assert_eq!(
            kinds(&events),
            [
                "GPU 1 cannot be read: it fell off the bus (NVML error 15)",
                ""
            ]
        );
    }

    #[test]
    fn a_probe_that_fails_leaves_no_stale_values() {
        let (events, board) = board();
        board.greet(&hello());
        board.update(vec![
            Gpu::default(),
            Gpu {
                index: 1,
                ..Gpu::default()
            },
        ]);
        board.fail("the NVML probe died");
        assert!(board.samples().is_empty());
        assert_eq!(board.problem(), "the NVML probe died");
        assert_eq!(kinds(&events), ["the NVML probe died"]);
    }

    #[test]
    fn every_failure_has_its_own_words() {
        let texts: std::collections::HashSet<String> = Failure::ALL
            .iter()
            .map(|failure| failure_text(*failure, "said"))
            .collect();
        assert_eq!(texts.len(), Failure::ALL.len());
        assert!(texts.iter().all(|text| text.ends_with(": said")));
    }
}
