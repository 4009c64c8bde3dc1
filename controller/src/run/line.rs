//! The line of a box that comes up: measured to the run's own bucket, and held against what was promised and what the run needs ([`judge`]
//! is pure). A box that cannot carry checkpoints away is given up at once: everything after this is paid for by the hour.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    agent_client::LineInfo,
    provider::hosts::is_host,
    run::{
        boxes::{has_bucket, is_presigned},
        halt::{Halt, refused},
        lifecycle::Lifecycle,
        machines,
        site::{Site, SiteError},
    },
    store::{AttemptRecord, Measured, RunRecord},
};

/// Below this a box is given up, bytes per second: 170 KB/s were met, and wasted hours.
const FLOOR: f64 = 1e6;
/// A run whose checkpoints need more raises the floor to this at most, bytes per second: the measurement is too short to prove more.
const MOST: f64 = 4e6;
/// Share of what a run needs below which a box is given up: a line that has just begun is slower than it will be.
const GROSS: f64 = 0.25;
/// Share of what was promised that makes a slow line an honest one, which was rented knowingly.
const HONEST: f64 = 0.5;
/// Boxes of a run that are given up for their lines: when the next one is as slow, the way to the bucket is at fault.
const GIVEN_UP_AT_MOST: usize = 2;
/// How the reason of such a box begins.
const REASON: &str = "its line: ";
/// Event of a line that was measured.
const MEASURED: &str = "line_measured";

/// What a line is held against.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Needs {
    /// What the offer said of uploads, Mb/s.
    promised_up_mbps: Option<f64>,
    /// What the offer said of downloads, Mb/s.
    promised_down_mbps: Option<f64>,
    /// What checkpoints as large as the run's newest one need to reach the bucket in time, bytes per second; 0: none is known.
    up_bytes_per_s: f64,
    /// Boxes of this run that were given up for their lines.
    given_up: usize,
    /// The box is the user's own: another one would be at the end of the same line, and nobody promised anything.
    own_box: bool,
}

/// What follows.
#[derive(Debug, Clone, PartialEq)]
enum Verdict {
    /// Enough.
    Fine,
    /// Too little, and the box is kept: why, for people.
    Careful(String),
    /// The same, and the boxes that were given up before for theirs had done no wrong either.
    WayAtFault(String),
    /// The box is given up: why, for people.
    GiveUp(String),
}

/// Holds a line against what is needed of it (pure).
fn judge(line: &LineInfo, needs: &Needs) -> Verdict {
    let floor = (needs.up_bytes_per_s * GROSS).clamp(FLOOR, MOST);
    let ways = [
        ("up", line.up_bytes_per_s, needs.promised_up_mbps, floor),
        (
            "down",
            line.down_bytes_per_s,
            needs.promised_down_mbps,
            FLOOR,
        ),
    ];
    for (way, has, promised_mbps, floor) in ways {
        let Some(has) = has.filter(|has| *has < floor) else {
            continue;
        };
        let promised = promised_mbps.map_or(0.0, |mbps| mbps * 1e6 / 8.0);
        let slow = format!("{} {way}, below {}", rate(has), rate(floor));
        return if line.own_server {
            Verdict::Careful(format!(
                "{slow}; the bucket's own server may be the slower end"
            ))
        } else if needs.own_box {
            Verdict::Careful(format!("{slow}; it is your own box"))
        } else if promised > 0.0 && has >= promised * HONEST {
            Verdict::Careful(format!("{slow}, as its host said"))
        } else if needs.given_up >= GIVEN_UP_AT_MOST {
            Verdict::WayAtFault(format!(
                "{slow}, as on {} boxes before: the way to the bucket may be at fault. This one is kept, and their machines are avoided no more",
                needs.given_up
            ))
        } else {
            Verdict::GiveUp(slow)
        };
    }
    match line.up_bytes_per_s {
        Some(up) if up < needs.up_bytes_per_s => Verdict::Careful(format!(
            "checkpoints like the newest one need {} up",
            rate(needs.up_bytes_per_s)
        )),
        _ => Verdict::Fine,
    }
}

/// A line as its event has it (pure).
fn recorded(detail: &Value) -> LineInfo {
    let rate = |name: &str| detail[name].as_f64().map(|mbps| mbps * 1e6 / 8.0);
    LineInfo {
        up_bytes_per_s: rate("up_mbps"),
        down_bytes_per_s: rate("down_mbps"),
        own_server: detail["own_server"] == true,
        ..LineInfo::default()
    }
}

/// Whether the box of an attempt was given up for its line (pure).
fn was_given_up(attempt: &AttemptRecord) -> bool {
    let reason = attempt.reason.as_deref();
    reason.is_some_and(|reason| reason.starts_with(REASON))
}

/// As it is shown, beside what was promised (pure).
fn text(line: &LineInfo, needs: &Needs) -> String {
    let way = |way: &str, has: Option<f64>, promised: Option<f64>| {
        let has = has.map_or_else(|| "not measured".to_owned(), rate);
        let promised = promised.map_or_else(String::new, |mbps| {
            format!(" (offered: {})", rate(mbps * 1e6 / 8.0))
        });
        format!("{has} {way}{promised}")
    };
    format!(
        "Its line to the bucket: {}, {}.",
        way("up", line.up_bytes_per_s, needs.promised_up_mbps),
        way("down", line.down_bytes_per_s, needs.promised_down_mbps),
    )
}

fn rate(bytes_per_s: f64) -> String {
    match bytes_per_s {
        0.0..1e6 => format!("{:.0} KB/s", bytes_per_s / 1e3),
        1e6..10e6 => format!("{:.1} MB/s", bytes_per_s / 1e6),
        _ => format!("{:.0} MB/s", bytes_per_s / 1e6),
    }
}

impl Lifecycle {
    /// Has the line of a box measured once in its life, shows it, and gives the box up where it is far too slow.
    pub(super) async fn measure_line(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        site: &dyn Site,
    ) -> Result<(), Halt> {
        let not_measured = |why: &str| self.say(run, &format!("Its line was not measured: {why}."));
        if !has_bucket(run) {
            not_measured("the run has no bucket");
            return Ok(());
        }
        if is_presigned(run) {
            not_measured("this box has no keys of the bucket");
            return Ok(());
        }
        let before = self
            .store
            .newest_event(&run.name, attempt.number, MEASURED)?;
        if attempt.reopened_us > 0 {
            return Ok(());
        }
        // Whoever measured it may have died before the box was given up.
        if let Some(before) = &before {
            return match judge(&recorded(&before.detail), &self.needs(run, attempt)?) {
                Verdict::Fine | Verdict::Careful(_) => Ok(()),
                Verdict::WayAtFault(_) => self.forgive(run),
                Verdict::GiveUp(why) => self.blame(attempt, &why),
            };
        }
        let line = match site.measure_line(MOST).await {
            Ok(line) => line,
            Err(
                err @ (SiteError::Unreachable(_) | SiteError::NoAnswer(_) | SiteError::Local(_)),
            ) => {
                return Err(refused("its line was not measured", err));
            }
            Err(SiteError::Refused(why) | SiteError::Fault(why)) => {
                not_measured(&why);
                return Ok(());
            }
        };
        if let Some(why) = &line.not_measured {
            not_measured(why);
        }
        if line.up_bytes_per_s.is_none() && line.down_bytes_per_s.is_none() {
            return Ok(());
        }
        let needs = self.needs(run, attempt)?;
        self.keep_line(run, attempt, &line)?;
        self.say(run, &text(&line, &needs));
        let careful = |why: &str| self.say(run, &format!("Careful: its line is slow: {why}."));
        match judge(&line, &needs) {
            Verdict::Fine => Ok(()),
            Verdict::Careful(why) => {
                careful(&why);
                Ok(())
            }
            Verdict::WayAtFault(why) => {
                careful(&why);
                self.forgive(run)
            }
            Verdict::GiveUp(why) => self.blame(attempt, &why),
        }
    }

    /// Gives a box up for its line.
    fn blame(&self, attempt: &AttemptRecord, why: &str) -> Result<(), Halt> {
        let why = format!("{REASON}{why}");
        // Of a box that is checked already only this is its machine's fault.
        if let Some(machine) = attempt.machine_id {
            machines::remember(&self.store, machine, self.clock.now_us(), &why)?;
        }
        Err(Halt::BadBox(why))
    }

    /// Avoids the machines no more that are avoided for the lines of this run's boxes only.
    fn forgive(&self, run: &RunRecord) -> Result<(), Halt> {
        let attempts = self.store.attempts(&run.name)?;
        let blamed = attempts.iter().filter(|attempt| was_given_up(attempt));
        for machine in blamed.filter_map(|attempt| attempt.machine_id) {
            let why = machines::avoided(&self.store, machine, self.clock.now_us())?;
            if why.is_some_and(|why| why.starts_with(REASON)) {
                machines::forgive(&self.store, machine)?;
            }
        }
        Ok(())
    }

    fn needs(&self, run: &RunRecord, attempt: &AttemptRecord) -> Result<Needs, Halt> {
        let promised = self.store.measured(&run.name, attempt.number)?;
        let every = run.spec.checkpoints.as_ref().map(|kept| kept.every);
        let every_s = every.unwrap_or(Duration::from_secs(600)).as_secs_f64();
        let attempts = self.store.attempts(&run.name)?;
        Ok(Needs {
            promised_up_mbps: promised.advertised_up_mbps,
            promised_down_mbps: promised.advertised_down_mbps,
            up_bytes_per_s: self.newest_checkpoint_bytes(&run.name)? as f64 / every_s.max(1.0),
            given_up: attempts.iter().filter(|one| was_given_up(one)).count(),
            own_box: attempt.instance.is_some_and(is_host),
        })
    }

    fn keep_line(
        &self,
        run: &RunRecord,
        attempt: &AttemptRecord,
        line: &LineInfo,
    ) -> Result<(), Halt> {
        let mbps = |bytes_per_s: Option<f64>| bytes_per_s.map(|rate| rate * 8.0 / 1e6);
        // Where a server is somebody's own, who knows whose line that was.
        if !line.own_server {
            let seen = Measured {
                up_mbps: mbps(line.up_bytes_per_s),
                down_mbps: mbps(line.down_bytes_per_s),
                ..Measured::default()
            };
            self.store
                .record_measured(&run.name, attempt.number, &seen)?;
        }
        let detail = json!({
            "up_mbps": mbps(line.up_bytes_per_s), "down_mbps": mbps(line.down_bytes_per_s), "own_server": line.own_server,
        });
        self.note(run, attempt.number, MEASURED, detail)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(up_kb: f64, down_kb: f64) -> LineInfo {
        LineInfo {
            up_bytes_per_s: Some(up_kb * 1e3),
            down_bytes_per_s: Some(down_kb * 1e3),
            ..LineInfo::default()
        }
    }

    fn promised() -> Needs {
        Needs {
            promised_up_mbps: Some(500.0),
            promised_down_mbps: Some(800.0),
            ..Needs::default()
        }
    }

    #[track_caller]
    fn check(line: &LineInfo, needs: Needs, expected: &Verdict) {
        assert_eq!(&judge(line, &needs), expected, "{line:?} {needs:?}");
    }

    #[test]
    fn a_box_is_given_up_for_a_line_that_is_far_too_slow_and_for_no_other() {
        let up = |kb| line(kb, 50_000.0);
        check(&up(60_000.0), promised(), &Verdict::Fine);
        check(&up(1_000.0), promised(), &Verdict::Fine);
        let slow = "170 KB/s up, below 1.0 MB/s".to_owned();
        check(&up(170.0), promised(), &Verdict::GiveUp(slow.clone()));
        let slow_down = "170 KB/s down, below 1.0 MB/s".to_owned();
        check(
            &line(60_000.0, 170.0),
            promised(),
            &Verdict::GiveUp(slow_down),
        );
        // What is not known speaks against nobody.
        let silent = Needs::default();
        check(&LineInfo::default(), silent, &Verdict::Fine);
        check(&up(170.0), silent, &Verdict::GiveUp(slow.clone()));
        // Its host had said so.
        let honest = Needs {
            promised_up_mbps: Some(2.0),
            ..promised()
        };
        let said = Verdict::Careful(format!("{slow}, as its host said"));
        check(&up(170.0), honest, &said);
        // Who knows which end is slow.
        let own = LineInfo {
            own_server: true,
            ..up(170.0)
        };
        let said = format!("{slow}; the bucket's own server may be the slower end");
        check(&own, promised(), &Verdict::Careful(said));
        // One's own is all that there is, whatever its list says.
        for promised_up_mbps in [None, Some(500.0)] {
            let at_home = Needs {
                own_box: true,
                given_up: 2,
                promised_up_mbps,
                ..Needs::default()
            };
            let said = Verdict::Careful(format!("{slow}; it is your own box"));
            check(&up(170.0), at_home, &said);
            check(&up(60_000.0), at_home, &Verdict::Fine);
        }
        // A third box that is as slow tells of the way.
        let third = Needs {
            given_up: 2,
            ..promised()
        };
        let said = format!(
            "{slow}, as on 2 boxes before: the way to the bucket may be at fault. This one is kept, and their machines are avoided no more"
        );
        check(&up(170.0), third, &Verdict::WayAtFault(said));
    }

    #[test]
    fn a_line_is_read_back_as_it_was_recorded() {
        let seen = recorded(&json!({"up_mbps": 1.36, "down_mbps": null, "own_server": true}));
        assert!((seen.up_bytes_per_s.unwrap() - 170e3).abs() < 1.0);
        assert_eq!((seen.down_bytes_per_s, seen.own_server), (None, true));
        assert_eq!(recorded(&json!({})), LineInfo::default());
    }

    #[test]
    fn large_checkpoints_need_more_of_a_line() {
        // 3 GB every ten minutes.
        let needs = Needs {
            up_bytes_per_s: 5e6,
            ..promised()
        };
        let up = |kb| line(kb, 50_000.0);
        check(&up(5_000.0), needs, &Verdict::Fine);
        let careful = "checkpoints like the newest one need 5.0 MB/s up".to_owned();
        check(&up(1_250.0), needs, &Verdict::Careful(careful));
        let slow = "1.2 MB/s up, below 1.2 MB/s".to_owned();
        check(&up(1_240.0), needs, &Verdict::GiveUp(slow));
        // However large they are, a few seconds prove no more than this.
        let huge = Needs {
            up_bytes_per_s: 100e6,
            ..promised()
        };
        let careful = "checkpoints like the newest one need 100 MB/s up".to_owned();
        check(&up(4_100.0), huge, &Verdict::Careful(careful));
    }

    #[test]
    fn both_ways_are_shown_beside_what_was_offered() {
        assert_eq!(
            text(&line(170.0, 12_500.0), &promised()),
            "Its line to the bucket: 170 KB/s up (offered: 62 MB/s), 12 MB/s down (offered: 100 MB/s)."
        );
        let half = LineInfo {
            down_bytes_per_s: None,
            ..line(52.0, 0.0)
        };
        assert_eq!(
            text(&half, &Needs::default()),
            "Its line to the bucket: 52 KB/s up, not measured down."
        );
    }
}
