//! Xid errors as they happen: a thread that waits in the driver and tells of each.

use std::thread;
use std::time::Duration;

use nvml_probe::{Body, Xid};
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use crate::gpu::Reader;
use crate::raw::{self, XidEvents};
use crate::send;

/// The wait is ended by an event; this only bounds what a driver that forgets us costs.
const WAIT_MS: u32 = 60_000;

/// What waits, and whose handle is whose.
pub struct Watch<'nvml> {
    events: XidEvents<'nvml>,
    /// Handle and index: a GPU that is lost does not tell its index any more.
    gpus: Vec<(usize, u32)>,
}

/// Asks to be told of the errors of all GPUs; `None` where none can be heard, as in some containers.
pub fn watch<'nvml>(nvml: &'nvml Nvml, gpus: &[Reader<'nvml>]) -> Option<Watch<'nvml>> {
    let devices: Vec<_> = gpus.iter().filter_map(Reader::device).collect();
    let events = XidEvents::register(nvml, &devices).ok()?;
    let handle = |gpu: &Reader<'nvml>| Some((raw::handle_of(gpu.device()?), gpu.index()));
    Some(Watch {
        events,
        gpus: gpus.iter().filter_map(handle).collect(),
    })
}

impl Watch<'_> {
    /// Tells of each error until nobody reads any more, or the driver will not be waited for.
    pub fn report(self) {
        /// A lost GPU may spoil a wait; one after the other, waiting is over.
        const MOST_FAILURES: u32 = 10;
        let mut failures = 0;
        while failures < MOST_FAILURES {
            match self.events.wait(WAIT_MS) {
                Ok((handle, code)) => {
                    failures = 0;
                    let known = self.gpus.iter().find(|(known, _)| *known == handle);
                    let index = known.map(|(_, index)| *index);
                    if send(Body::Xid(Xid { index, code })).is_err() {
                        return;
                    }
                }
                Err(NvmlError::Timeout) => failures = 0,
                Err(_) => {
                    failures += 1;
                    thread::sleep(Duration::from_secs(1));
                }
            }
        }
    }
}
