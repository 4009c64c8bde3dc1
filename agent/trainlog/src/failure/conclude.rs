//! How the program ended, weighed together with its log (pure).

use super::{Class, Diagnosis, explains_itself, speaks_of_gpus};

/// What is known of the end beside the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct End {
    /// Exit code, if it ended by itself.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Kills by the kernel for want of memory in its container since it started; `None`: nobody counts them there.
    pub oom_kills: Option<u64>,
    /// Most of the box's memory that was in use shortly before, percent; `None`: nobody measured it.
    pub memory_percent: Option<u8>,
    /// Xid events of its GPUs since it started.
    pub xids: Vec<XidEvent>,
    /// The machine is being taken away, or its container stopped.
    pub machine_ends: bool,
}

/// An error that the driver reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XidEvent {
    /// Its code.
    pub code: u32,
    /// How long before the program's end it came, seconds.
    pub before_end_s: u64,
}

/// Xids after which a GPU is of no more use to the program: memory, NVLink, GSP and bus. Others mostly follow mistakes of the
/// program (13, 31, 43, 45) or are told for the record (63, 92, 154). Source: NVIDIA, XID Errors.
const HARDWARE_XIDS: [u32; 11] = [48, 61, 62, 64, 74, 79, 95, 119, 120, 140, CONTAINED];
/// An error of memory that ends only the program that used it: it must have told of one.
const CONTAINED: u32 = 94;
/// A program whose GPU is lost and that says nothing of GPUs ends within this time, seconds.
const SOON_S: u64 = 300;
/// Other ranks wait for a lost one this long: some time-outs of NCCL are set to an hour, seconds.
const WAITED_S: u64 = 2 * 3600;

/// Where nobody counts kills, memory was what this one was for from so much of it in use, percent: it is looked at once in a second,
/// and a loader takes gigabytes in one.
const NEARLY_FULL_PERCENT: u8 = 80;

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
    let by_kernel = |times: u64| {
        let times = match times {
            1 => "once".to_owned(),
            more => format!("{more} times"),
        };
        let evidence =
            format!("the kernel ended a process of the container {times} for want of memory");
        shown(Class::HostOom, evidence)
    };
    if killed && let Some(times @ 1..) = end.oom_kills {
        return by_kernel(times);
    }
    if let Some(xid) = end.xids.iter().rev().find(|xid| xid.ended(log.as_ref())) {
        return shown(Class::Xid, format!("the driver reported Xid {}", xid.code));
    }
    // The kernel took one rank; the launcher and the other ranks only tell that it is gone.
    if let Some(times @ 1..) = end.oom_kills
        && !end.machine_ends
        && log.as_ref().is_none_or(may_follow_a_kill)
    {
        return by_kernel(times);
    }
    // Somebody killed it, and nothing shows that it was the kernel.
    let innocent = end.without_want_of_memory();
    let log = log.map(|found| match &innocent {
        Some(why) if found.class == Class::HostOom && tells_only_of_a_kill(&found.evidence) => {
            Diagnosis {
                class: Class::Killed,
                evidence: format!("{}: {why}", found.evidence),
                ..found
            }
        }
        _ => found,
    });
    let explained = log
        .as_ref()
        .is_some_and(|found| !matches!(found.class, Class::TracebackOther | Class::Killed));
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
        // What spotter ends has no verdict at all.
        Some(SIGKILL) if log.is_none() => match innocent {
            Some(why) => shown(
                Class::Killed,
                format!("it was killed by SIGKILL; {why}, and spotter did not end it"),
            ),
            None => shown(
                Class::HostOom,
                format!(
                    "it was killed by SIGKILL, which is what the kernel does when memory runs out{}",
                    end.memory_percent
                        .map_or_else(String::new, |percent| format!(
                            ": {percent} % of it was in use"
                        ))
                ),
            ),
        },
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

impl End {
    /// Why a kill was not for want of memory, as far as anybody knows; `None`: it may have been.
    fn without_want_of_memory(&self) -> Option<String> {
        match (self.oom_kills, self.memory_percent) {
            (Some(0), _) => {
                Some("the kernel counted no kill for want of the container's memory".to_owned())
            }
            (Some(_), _) => None,
            (None, Some(percent)) if percent >= NEARLY_FULL_PERCENT => None,
            (None, Some(percent)) => Some(format!(
                "{percent} % of the box's memory was in use, and nobody counts kills for want of it here"
            )),
            (None, None) => {
                Some("nobody counts kills for want of memory here, or measured it".to_owned())
            }
        }
    }
}

/// Whether this is what a program prints of which the kernel took a process.
fn may_follow_a_kill(found: &Diagnosis) -> bool {
    match found.class {
        Class::Nccl | Class::Network | Class::Preempted => true,
        Class::TracebackOther => !explains_itself(&found.evidence),
        _ => false,
    }
}

/// Whether this says that a process was killed and not why: the words of shells and launchers.
fn tells_only_of_a_kill(evidence: &str) -> bool {
    const WHY: [&str; 7] = [
        "oom",
        "memory",
        "alloc",
        "errno 12",
        "slurm",
        "srun",
        "bad_alloc",
    ];
    const KILLED: [&str; 5] = ["killed", "sigkill", "signal 9", "-9", "137"];
    let lower = evidence.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    says(&KILLED) && !says(&WHY)
}

impl XidEvent {
    /// Whether it ended a program that ended badly with this log.
    fn ended(self, log: Option<&Diagnosis>) -> bool {
        // What is said without GPUs is a cause of its own; what is said of them is what a lost one looks like.
        let (speaks, silent) = match log {
            None => (false, true),
            Some(found) => match found.class {
                Class::Xid | Class::Nccl => (true, false),
                Class::TracebackOther => {
                    let speaks = speaks_of_gpus(&found.evidence);
                    (speaks, !speaks)
                }
                _ => (false, false),
            },
        };
        HARDWARE_XIDS.contains(&self.code)
            && (speaks && self.before_end_s <= WAITED_S
                || silent && self.code != CONTAINED && self.before_end_s <= SOON_S)
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

    fn xids(codes: &[(u32, u64)]) -> End {
        let event = |&(code, before_end_s): &(u32, u64)| XidEvent { code, before_end_s };
        End {
            exit_code: Some(1),
            xids: codes.iter().map(event).collect(),
            ..End::default()
        }
    }

    #[test]
    fn an_xid_ends_what_ends_soon_after_it_or_speaks_of_its_gpu() {
        let crash = |evidence: &str| {
            Some(Diagnosis {
                class: Class::TracebackOther,
                evidence: evidence.to_owned(),
                line: 7,
            })
        };
        let illegal = "RuntimeError: CUDA error: unspecified launch failure";
        for (log, end, expected) in [
            (
                crash("KeyError: 'a'"),
                xids(&[(63, 1)]),
                Class::TracebackOther,
            ),
            (
                crash("KeyError: 'a'"),
                xids(&[(79, 21_600)]),
                Class::TracebackOther,
            ),
            (crash("KeyError: 'a'"), xids(&[(79, 20)]), Class::Xid),
            (
                crash("KeyError: 'a'"),
                xids(&[(94, 1)]),
                Class::TracebackOther,
            ),
            (crash(illegal), xids(&[(94, 1)]), Class::Xid),
            (crash(illegal), xids(&[(13, 1)]), Class::TracebackOther),
            (crash(illegal), xids(&[(79, 3_000)]), Class::Xid),
            (log(Class::Nccl), xids(&[(43, 9), (79, 1_800)]), Class::Xid),
            (log(Class::Nccl), xids(&[(79, 50_000)]), Class::Nccl),
            (log(Class::Nccl), xids(&[(154, 5)]), Class::Nccl),
            (log(Class::CudaOom), xids(&[(79, 5)]), Class::CudaOom),
            (None, xids(&[(48, 10)]), Class::Xid),
            (None, xids(&[(48, 9_000)]), Class::ExitCode),
            (None, xids(&[(92, 1), (63, 1)]), Class::ExitCode),
        ] {
            let got = conclude(log.clone(), &end).map_or(Class::None, |found| found.class);
            assert_eq!(got, expected, "{log:?} {end:?}");
        }
        let well = End {
            exit_code: Some(0),
            ..xids(&[(79, 1), (63, 1)])
        };
        assert_eq!(conclude(None, &well), None);
        assert_eq!(conclude(crash("KeyError"), &well), None);
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
        let starved = |exit_code, oom_kills| End {
            oom_kills: Some(oom_kills),
            ..code(exit_code)
        };
        let full = |exit_code, percent| End {
            memory_percent: Some(percent),
            ..code(exit_code)
        };
        let said = |class, evidence: &str| {
            Some(Diagnosis {
                class,
                evidence: evidence.to_owned(),
                line: 7,
            })
        };
        let by_shell = || said(Class::HostOom, "Killed");
        let by_launcher = || said(Class::HostOom, "Signal 9 (SIGKILL) received by PID 77");
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
            ("a kill", None, signal(SIGKILL), Class::Killed),
            ("a kill seen by a shell", None, code(137), Class::Killed),
            (
                "a kill while memory was full",
                None,
                full(137, 97),
                Class::HostOom,
            ),
            (
                "a kill while memory was free",
                None,
                full(137, 40),
                Class::Killed,
            ),
            (
                "a launcher's word while memory was full",
                by_launcher(),
                full(1, 80),
                Class::HostOom,
            ),
            (
                "the same while memory was free",
                by_launcher(),
                full(1, 79),
                Class::Killed,
            ),
            (
                "a kill that the memory's counter does not know",
                None,
                End {
                    oom_kills: Some(0),
                    ..signal(SIGKILL)
                },
                Class::Killed,
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
                "a rank that the kernel took",
                log(Class::Nccl),
                starved(1, 1),
                Class::HostOom,
            ),
            (
                "a rank that the kernel took, by a traceback",
                log(Class::TracebackOther),
                starved(1, 1),
                Class::HostOom,
            ),
            (
                "a rank that the kernel took, without a word",
                None,
                starved(1, 1),
                Class::HostOom,
            ),
            (
                "a cause of its own beside it",
                log(Class::CudaOom),
                starved(1, 1),
                Class::CudaOom,
            ),
            (
                "a mistake of the program beside it",
                said(Class::TracebackOther, "KeyError: 'input_ids'"),
                starved(1, 1),
                Class::TracebackOther,
            ),
            (
                "a good end beside it",
                log(Class::Nccl),
                starved(0, 1),
                Class::None,
            ),
            (
                "a kill that the counter does not know",
                by_shell(),
                starved(137, 0),
                Class::Killed,
            ),
            (
                "the same by a launcher",
                by_launcher(),
                starved(1, 0),
                Class::Killed,
            ),
            (
                "the same while the machine ends",
                by_shell(),
                End {
                    machine_ends: true,
                    ..starved(137, 0)
                },
                Class::Preempted,
            ),
            (
                "memory that was refused",
                said(Class::HostOom, "OSError: [Errno 12] Cannot allocate memory"),
                starved(1, 0),
                Class::HostOom,
            ),
            (
                "a kill where nobody counts",
                by_shell(),
                code(137),
                Class::Killed,
            ),
            (
                "a broken GPU",
                log(Class::Nccl),
                End {
                    exit_code: Some(1),
                    ..xids(&[(43, 61), (79, 60)])
                },
                Class::Xid,
            ),
            (
                "an Xid of the program's own making",
                log(Class::DeviceAssert),
                End {
                    exit_code: Some(1),
                    ..xids(&[(43, 1)])
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
