//! How the program ended, weighed together with its log (pure).

use super::{Class, Diagnosis};

/// What is known of the end beside the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct End {
    /// Exit code, if it ended by itself.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Kills by the kernel for want of memory in its container since it started; `None`: nobody counts them there.
    pub oom_kills: Option<u64>,
    /// Codes of Xid events of its GPUs since it started.
    pub xids: Vec<u32>,
    /// The machine is being taken away, or its container stopped.
    pub machine_ends: bool,
}

/// Xids that are the hardware's or the driver's; others mostly follow mistakes of the program.
/// Source: NVIDIA, XID Errors (memory, NVLink, GSP and bus errors).
const HARDWARE_XIDS: [u32; 14] = [48, 61, 62, 63, 64, 74, 79, 92, 94, 95, 119, 120, 140, 154];

const SIGBUS: i32 = 7;
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// What ended the program. `None`: nothing did, or nothing is known.
pub fn conclude(log: Option<Diagnosis>, end: &End) -> Option<Diagnosis> {
    let shown = |class, evidence: String| {
        Some(Diagnosis {
            class,
            evidence,
            line: 0,
        })
    };
    if let Some(xid) = end.xids.iter().find(|xid| HARDWARE_XIDS.contains(xid)) {
        return shown(Class::Xid, format!("the driver reported Xid {xid}"));
    }
    // A shell answers 128 and the signal's number for its child.
    let signal = end.signal.or(end
        .exit_code
        .filter(|code| *code > 128 && *code < 160)
        .map(|code| code - 128));
    if end.exit_code == Some(0) {
        // A program that ended well may have trained nothing: that alone its log still tells.
        return log.filter(|found| found.class == Class::NanLoss);
    }
    let killed = signal == Some(SIGKILL);
    if killed && let Some(times @ 1..) = end.oom_kills {
        let times = match times {
            1 => "once".to_owned(),
            more => format!("{more} times"),
        };
        return shown(
            Class::HostOom,
            format!("the kernel ended a process of the container {times} for want of memory"),
        );
    }
    let explained = log
        .as_ref()
        .is_some_and(|found| found.class != Class::TracebackOther);
    if explained {
        return log;
    }
    match signal {
        Some(SIGTERM) if end.machine_ends || log.is_none() => {
            shown(Class::Preempted, "it was told to end by SIGTERM".to_owned())
        }
        Some(SIGKILL) if end.machine_ends => shown(
            Class::Preempted,
            "it was killed while the machine ended".to_owned(),
        ),
        // Whoever killed it, it was not for the container's memory.
        Some(SIGKILL) if log.is_none() && end.oom_kills == Some(0) => shown(
            Class::TracebackOther,
            "it was killed by SIGKILL, and not for want of the container's memory".to_owned(),
        ),
        Some(SIGKILL) if log.is_none() => shown(
            Class::HostOom,
            "it was killed by SIGKILL, which is what the kernel does when memory runs out"
                .to_owned(),
        ),
        Some(SIGBUS) => shown(Class::DataloaderShm, "it was ended by SIGBUS".to_owned()),
        Some(signal) if log.is_none() => shown(
            Class::TracebackOther,
            format!("it was ended by signal {signal}"),
        ),
        _ if log.is_some() => log,
        _ => end
            .exit_code
            .and_then(|code| shown(Class::ExitCode, format!("it ended with exit code {code}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(class: Class) -> Option<Diagnosis> {
        Some(Diagnosis {
            class,
            evidence: "a line".to_owned(),
            line: 7,
        })
    }

    #[test]
    fn the_end_and_the_log_are_weighed_together() {
        let code = |code| End {
            exit_code: Some(code),
            ..End::default()
        };
        let signal = |signal| End {
            signal: Some(signal),
            ..End::default()
        };
        for (name, log, end, expected) in [
            ("a good end", None, code(0), Class::None),
            ("a caught error", log(Class::CudaOom), code(0), Class::None),
            (
                "a good end with a broken loss",
                log(Class::NanLoss),
                code(0),
                Class::NanLoss,
            ),
            (
                "its own words",
                log(Class::CudaOom),
                code(1),
                Class::CudaOom,
            ),
            ("no words", None, code(3), Class::ExitCode),
            (
                "an exception and an exit code",
                log(Class::TracebackOther),
                code(3),
                Class::TracebackOther,
            ),
            ("a kill", None, signal(SIGKILL), Class::HostOom),
            ("a kill seen by a shell", None, code(137), Class::HostOom),
            (
                "a kill that the memory's counter does not know",
                None,
                End {
                    oom_kills: Some(0),
                    ..signal(SIGKILL)
                },
                Class::TracebackOther,
            ),
            ("a bus error", None, code(135), Class::DataloaderShm),
            ("told to end", None, code(143), Class::Preempted),
            ("a crash", None, signal(11), Class::TracebackOther),
            (
                "an exception and a late SIGTERM",
                log(Class::TracebackOther),
                code(143),
                Class::TracebackOther,
            ),
            (
                "the kernel's count",
                log(Class::TracebackOther),
                End {
                    signal: Some(SIGKILL),
                    oom_kills: Some(1),
                    ..End::default()
                },
                Class::HostOom,
            ),
            (
                "a broken GPU",
                log(Class::Nccl),
                End {
                    exit_code: Some(1),
                    xids: vec![43, 79],
                    ..End::default()
                },
                Class::Xid,
            ),
            (
                "an Xid of the program's own making",
                log(Class::DeviceAssert),
                End {
                    exit_code: Some(1),
                    xids: vec![43],
                    ..End::default()
                },
                Class::DeviceAssert,
            ),
            (
                "a machine that is taken away",
                None,
                End {
                    signal: Some(SIGKILL),
                    machine_ends: true,
                    ..End::default()
                },
                Class::Preempted,
            ),
        ] {
            let got = conclude(log, &end).map_or(Class::None, |found| found.class);
            assert_eq!(got, expected, "{name}");
        }
    }
}
