//! What the server's clock says, learned from its answers, and the time that requests are signed with (pure).
//!
//! A box's clock may be hours off; servers refuse a signature that is more than 15 minutes old. A `Date` header may also lie
//! (proxies add their own), so a refusal for skew is believed over it.

use std::time::{Duration, SystemTime};

use aws_smithy_types::date_time::{DateTime, Format};

/// Below this many seconds the local clock is used as it is: `Date` has a resolution of one second, and answers travel.
const IGNORED_S: f64 = 60.0;

/// Offset of a server's clock.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct ServerClock {
    /// Seconds that the server is ahead, by its `Date` headers.
    dated_s: Option<f64>,
    /// Seconds added since a signature was refused for its time.
    corrected_s: Option<f64>,
}

impl ServerClock {
    /// Learns from the `Date` header of an answer that arrived at `now`.
    pub fn saw_date(&mut self, date: &str, now: SystemTime) {
        if let Some(server) = parse_http_date(date) {
            // The header's second began up to a second ago: its middle is the better guess.
            self.dated_s = Some(seconds_between(now, server) + 0.5);
        }
    }

    /// Learns from a refusal for skew that arrived at `now` for a request that was signed `signed_with_s` away from the local
    /// clock. `server_time` is what the refusal itself says, when it does.
    pub fn refused(
        &mut self,
        signed_with_s: f64,
        server_time: Option<SystemTime>,
        now: SystemTime,
    ) {
        let dated = self.dated_s.unwrap_or(0.0);
        self.corrected_s = Some(match server_time {
            Some(server) => seconds_between(now, server),
            // The header's time was refused already: it is not the server's own.
            None if (dated - signed_with_s).abs() < IGNORED_S
                && signed_with_s.abs() >= IGNORED_S =>
            {
                0.0
            }
            None => dated,
        });
    }

    /// Seconds to add to the local clock when signing.
    pub fn signing_offset_s(&self) -> f64 {
        match (self.corrected_s, self.dated_s) {
            (Some(corrected), _) => corrected,
            (None, Some(dated)) if dated.abs() >= IGNORED_S => dated,
            _ => 0.0,
        }
    }

    /// Seconds to add to the local clock for what is signed long before it is sent: nobody is there then to sign it anew, so a small
    /// offset counts too, and a refusal is believed over a `Date` header.
    pub fn ahead_s(&self) -> f64 {
        self.corrected_s.or(self.dated_s).unwrap_or(0.0)
    }

    /// Seconds that the server is ahead, as far as known; 0 before the first answer.
    pub fn offset_s(&self) -> f64 {
        self.dated_s.or(self.corrected_s).unwrap_or(0.0)
    }
}

/// `now` moved by `offset_s`, which may be negative.
pub fn shifted(now: SystemTime, offset_s: f64) -> SystemTime {
    // Any sane offset fits; an insane one must not panic.
    let by = Duration::from_secs_f64(offset_s.abs().min(1e9));
    let moved = if offset_s < 0.0 {
        now.checked_sub(by)
    } else {
        now.checked_add(by)
    };
    moved.unwrap_or(now)
}

/// Seconds from `from` to `to`.
fn seconds_between(from: SystemTime, to: SystemTime) -> f64 {
    match to.duration_since(from) {
        Ok(ahead) => ahead.as_secs_f64(),
        Err(behind) => -behind.duration().as_secs_f64(),
    }
}

/// Reads an HTTP date such as `Sun, 06 Nov 1994 08:49:37 GMT`.
fn parse_http_date(text: &str) -> Option<SystemTime> {
    read_time(text, Format::HttpDate)
}

/// Reads a time such as `2026-01-02T03:04:05Z`, as S3 writes it in bodies.
pub fn parse_iso_time(text: &str) -> Option<SystemTime> {
    read_time(text.trim(), Format::DateTimeWithOffset)
}

fn read_time(text: &str, format: Format) -> Option<SystemTime> {
    DateTime::from_str(text, format).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const DATE_S: u64 = 784_111_777;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn dates_of_both_kinds_are_read() {
        assert_eq!(parse_http_date(DATE), Some(at(DATE_S)));
        assert_eq!(parse_iso_time("1994-11-06T08:49:37.000Z"), Some(at(DATE_S)));
        for text in ["", "yesterday", "Sun, 06 Nov 1994", "-1"] {
            assert_eq!(parse_http_date(text), None, "{text}");
            assert_eq!(parse_iso_time(text), None, "{text}");
        }
    }

    #[test]
    fn a_small_offset_is_reported_but_not_signed_with() {
        let mut clock = ServerClock::default();
        assert_eq!((clock.offset_s(), clock.signing_offset_s()), (0.0, 0.0));
        clock.saw_date(DATE, at(DATE_S - 10));
        assert_eq!((clock.offset_s(), clock.signing_offset_s()), (10.5, 0.0));
    }

    #[test]
    fn what_is_signed_ahead_goes_by_a_refusal_before_a_header_that_lies() {
        let mut clock = ServerClock::default();
        assert_eq!(clock.ahead_s(), 0.0);
        clock.saw_date(DATE, at(DATE_S - 10));
        assert_eq!(clock.ahead_s(), 10.5);
        clock.saw_date(DATE, at(DATE_S - 3600));
        clock.refused(3600.5, Some(at(DATE_S - 3600)), at(DATE_S - 3600));
        clock.saw_date(DATE, at(DATE_S - 3600));
        assert_eq!((clock.ahead_s(), clock.offset_s()), (0.0, 3600.5));
    }

    #[test]
    fn a_large_offset_is_signed_with_in_both_directions() {
        for (local, offset) in [(DATE_S - 3600, 3600.5), (DATE_S + 3600, -3599.5)] {
            let mut clock = ServerClock::default();
            clock.saw_date(DATE, at(local));
            assert_eq!(clock.signing_offset_s(), offset);
            assert_eq!(
                shifted(at(10_000), offset),
                SystemTime::UNIX_EPOCH + Duration::from_secs_f64(10_000.0 + offset)
            );
        }
    }

    #[test]
    fn a_refusal_without_a_time_falls_back_to_the_header() {
        let mut clock = ServerClock::default();
        clock.saw_date(DATE, at(DATE_S - 3600));
        clock.refused(0.0, None, at(DATE_S - 3600));
        assert_eq!(clock.signing_offset_s(), 3600.5);
    }

    #[test]
    fn a_header_that_lies_is_not_believed_twice() {
        let mut clock = ServerClock::default();
        clock.saw_date(DATE, at(DATE_S - 7200));
        let signed_with = clock.signing_offset_s();
        clock.refused(signed_with, None, at(DATE_S - 7200));
        assert_eq!(clock.signing_offset_s(), 0.0);
        clock.saw_date(DATE, at(DATE_S - 7200));
        assert_eq!(
            clock.signing_offset_s(),
            0.0,
            "the lie goes on, the correction stays"
        );
    }

    #[test]
    fn a_refusal_that_says_its_time_is_believed_over_the_header() {
        let mut clock = ServerClock::default();
        clock.saw_date(DATE, at(DATE_S));
        clock.refused(0.0, Some(at(DATE_S + 900)), at(DATE_S));
        assert_eq!(clock.signing_offset_s(), 900.0);
    }

    #[test]
    fn an_insane_offset_does_not_panic() {
        for offset in [f64::MAX, f64::MIN, f64::INFINITY] {
            shifted(at(0), offset);
        }
    }
}
