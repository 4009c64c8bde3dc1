//! Tells the time of a step from that of all steps so far.

/// How the values of a plain `time` go: those of a step rise and fall, that of all steps so far only rises.
#[derive(Debug, Default)]
pub(super) struct Clock {
    last: f64,
    rises: u32,
    falls: u32,
}

impl Clock {
    /// Takes the next value. Returns whether they are of all steps so far.
    pub(super) fn runs(&mut self, time: f64) -> bool {
        self.rises += u32::from(time > self.last);
        // A clock that begins anew, with an epoch or a restart, falls to almost nothing.
        self.falls += u32::from(time < self.last && time > self.last / 5.0);
        self.last = time;
        self.rises > 5 && self.falls == 0
    }
}
