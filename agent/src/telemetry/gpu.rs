//! `GpuBoard`: the newest word of the probe, written by the thread that supervises it and read by the sampling loop.
//!
//! Reading never waits for a GPU. What is too old is not shown as if it were fresh: it becomes a problem with a reason.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nvml_probe::{Failure, Gpu, Hello, Xid};
use serde_json::json;

use super::GpuSample;
use crate::events::EventSink;

/// Intervals after which a reading is no longer the present: two late ones are forgiven.
const FRESH_INTERVALS: u32 = 4;

/// The critical errors of one GPU.
#[derive(Debug, Clone, Copy, Default)]
struct Xids {
    count: u32,
    last: u32,
    last_us: u64,
}

/// What is known about the GPUs at this moment.
pub struct GpuBoard {
    state: Mutex<State>,
    events: Arc<dyn EventSink>,
    fresh: Duration,
}

#[derive(Default)]
struct State {
    names: Vec<(Arc<str>, Arc<str>)>,
    driver: Option<Arc<Hello>>,
    /// Critical errors so far, by the GPU's index. They outlive the probe that told of them.
    xids: BTreeMap<u32, Xids>,
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
        state.driver = Some(Arc::new(hello.clone()));
        state.reading = None;
    }

    /// What the newest probe said of driver and GPUs; `None` before there was one that works.
    pub fn driver(&self) -> Option<Arc<Hello>> {
        self.lock().driver.clone()
    }

    /// The driver reported a critical error.
    pub fn note_xid(&self, xid: &Xid, time_us: u64) {
        let uuid = {
            let mut state = self.lock();
            if let Some(index) = xid.index {
                let of = state.xids.entry(index).or_default();
                of.count = of.count.saturating_add(1);
                (of.last, of.last_us) = (xid.code, time_us);
            }
            let place = xid.index.map(|index| index as usize);
            place.and_then(|place| Some(state.names.get(place)?.1.to_string()))
        };
        let detail = json!({ "xid": xid.code, "gpu": xid.index, "uuid": uuid });
        self.events.event("gpu.xid", detail);
    }

    /// The probe has read its GPUs.
    pub fn update(&self, gpus: Vec<Gpu>) {
        let problem = problem_of(&gpus);
        self.lock().reading = Some((Instant::now(), gpus));
        self.set_problem(&problem);
    }

    /// Records an event about the GPUs.
    pub fn tell(&self, kind: &str, detail: serde_json::Value) {
        self.events.event(kind, detail);
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
        let with_names = |(place, gpu): (usize, &Gpu)| {
            let (name, uuid) = state.names.get(place).cloned().unwrap_or_default();
            let mut reading = gpu.clone();
            if let Some(xids) = state.xids.get(&gpu.index) {
                reading.xid_count = xids.count;
                (reading.last_xid, reading.last_xid_us) = (xids.last, xids.last_us);
            }
            GpuSample {
                name,
                uuid,
                reading,
            }
        };
        gpus.iter().enumerate().map(with_names).collect()
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
            ..GpuInfo::default()
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
    fn an_xid_is_an_event_and_stays_with_its_gpu_when_the_probe_is_gone() {
        let (events, board) = board();
        board.greet(&hello());
        let xid = |index, code| Xid { index, code };
        board.note_xid(&xid(Some(1), 31), 5);
        board.note_xid(&xid(Some(1), 79), 7);
        board.note_xid(&xid(None, 13), 8);
        let told: Vec<_> = events.0.lock().unwrap().clone();
        assert_eq!(told[1].0, "gpu.xid");
        assert_eq!(told[1].1, json!({"xid": 79, "gpu": 1, "uuid": "GPU-1"}));
        assert_eq!(told[2].1, json!({"xid": 13, "gpu": null, "uuid": null}));

        board.fail("the NVML probe died");
        board.greet(&hello());
        board.update(
            (0..2)
                .map(|index| Gpu {
                    index,
                    ..Gpu::default()
                })
                .collect(),
        );
        let of = |place: usize| {
            let sample = &board.samples()[place];
            (sample.xid_count, sample.last_xid, sample.last_xid_us)
        };
        assert_eq!((of(0), of(1)), ((0, 0, 0), (2, 79, 7)));
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
