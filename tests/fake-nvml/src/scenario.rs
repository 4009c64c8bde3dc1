//! The scenario file: lines of `WHO KEY VALUE`, looked up by every call. The syntax is described at the top of the crate.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use std::{env, fs};

use nvml_wrapper_sys::bindings::nvmlReturn_t;

/// Whom a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Who {
    /// The library and the driver.
    System,
    /// Every GPU that has no line of its own.
    AllGpus,
    /// One GPU by index.
    Gpu(u32),
}

/// The number under which a MIG device is known: beyond all GPUs.
pub fn part(gpu: u32, part: u32) -> u32 {
    (part + 1) * PART + gpu
}

/// The GPU that a number belongs to: its own, or that of a MIG device.
pub fn whole(number: u32) -> u32 {
    number % PART
}

/// More GPUs than there are in any machine.
const PART: u32 = 1000;

/// One reading of the file.
#[derive(Debug, Clone, Default)]
pub struct Scenario {
    lines: Arc<HashMap<Who, HashMap<String, String>>>,
}

/// When the library was loaded, as far as it can tell: at the first call.
static LOADED: OnceLock<Instant> = OnceLock::new();

/// Time since the first call.
pub fn age() -> Duration {
    LOADED.get_or_init(Instant::now).elapsed()
}

impl Scenario {
    /// What the file says now; with `FAKE_NVML_FREEZE`, what it said at the first call.
    pub fn current() -> Self {
        static FROZEN: OnceLock<Option<Scenario>> = OnceLock::new();
        LOADED.get_or_init(Instant::now);
        let frozen = FROZEN.get_or_init(|| env::var_os("FAKE_NVML_FREEZE").map(|_| Self::read()));
        frozen.clone().unwrap_or_else(Self::read)
    }

    fn read() -> Self {
        let path = env::var_os("FAKE_NVML_SCENARIO").unwrap_or_else(|| "fake-nvml.txt".into());
        Self::parse(&fs::read_to_string(path).unwrap_or_default())
    }

    /// Lines that make no sense are passed over: this is an ABI, there is nobody to complain to.
    fn parse(text: &str) -> Self {
        let mut lines: HashMap<Who, HashMap<String, String>> = HashMap::new();
        for line in text.lines() {
            let line = line
                .split_once('#')
                .map_or(line, |(line, _comment)| line)
                .trim();
            let Some((who, rest)) = line.split_once(char::is_whitespace) else {
                continue;
            };
            let who = match who {
                "sys" => Who::System,
                "*" => Who::AllGpus,
                index => match number_of(index) {
                    Some(number) => Who::Gpu(number),
                    None => continue,
                },
            };
            let rest = rest.trim_start();
            let (key, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            lines
                .entry(who)
                .or_default()
                .insert(key.to_owned(), value.trim_start().to_owned());
        }
        Self {
            lines: Arc::new(lines),
        }
    }

    /// Number of GPUs.
    pub fn gpus(&self) -> u32 {
        self.number(Who::System, "count").unwrap_or(1.0) as u32
    }

    /// The value of a key: a GPU's own line, else that of all GPUs.
    pub fn text(&self, who: Who, key: &str) -> Option<&str> {
        let shared = || {
            matches!(who, Who::Gpu(_))
                .then(|| self.own_text(Who::AllGpus, key))
                .flatten()
        };
        self.own_text(who, key).or_else(shared)
    }

    /// The value of a key in a line about exactly this one.
    pub fn own_text(&self, who: Who, key: &str) -> Option<&str> {
        self.lines.get(&who)?.get(key).map(String::as_str)
    }

    /// The value of a key as a number; a ramp is a number that depends on the time.
    pub fn number(&self, who: Who, key: &str) -> Option<f64> {
        number_at(self.text(who, key)?, age())
    }

    /// How long a call takes before it answers: by its own name, else in general.
    pub fn delay(&self, who: Who, call: &str) -> Option<Duration> {
        let milliseconds = self
            .number(who, &format!("delay.{call}"))
            .or_else(|| self.number(who, "delay"))?;
        Duration::try_from_secs_f64(milliseconds / 1000.0).ok()
    }
}

/// `3` is a GPU, `3.0` its first MIG device.
fn number_of(word: &str) -> Option<u32> {
    match word.split_once('.') {
        Some((gpu, index)) => Some(part(gpu.parse().ok()?, index.parse().ok()?)),
        None => word.parse().ok(),
    }
}

/// `612`, or `ramp FROM TO SECONDS` at a time.
fn number_at(text: &str, age: Duration) -> Option<f64> {
    let mut words = text.split_whitespace();
    let first = words.next()?;
    if first != "ramp" {
        return first.parse().ok();
    }
    let mut next = || words.next()?.parse::<f64>().ok();
    let (from, to, seconds) = (next()?, next()?, next()?);
    let progress = if seconds > 0.0 {
        (age.as_secs_f64() / seconds).min(1.0)
    } else {
        1.0
    };
    Some(from + (to - from) * progress)
}

/// The code of an error by its name in the C header, without `NVML_ERROR_`. An unknown name is UNKNOWN.
pub fn error_code(name: &str) -> nvmlReturn_t {
    const NAMES: [&str; 31] = [
        "OK",
        "UNINITIALIZED",
        "INVALID_ARGUMENT",
        "NOT_SUPPORTED",
        "NO_PERMISSION",
        "ALREADY_INITIALIZED",
        "NOT_FOUND",
        "INSUFFICIENT_SIZE",
        "INSUFFICIENT_POWER",
        "DRIVER_NOT_LOADED",
        "TIMEOUT",
        "IRQ_ISSUE",
        "LIBRARY_NOT_FOUND",
        "FUNCTION_NOT_FOUND",
        "CORRUPTED_INFOROM",
        "GPU_IS_LOST",
        "RESET_REQUIRED",
        "OPERATING_SYSTEM",
        "LIB_RM_VERSION_MISMATCH",
        "IN_USE",
        "MEMORY",
        "NO_DATA",
        "VGPU_ECC_NOT_SUPPORTED",
        "INSUFFICIENT_RESOURCES",
        "FREQ_NOT_SUPPORTED",
        "ARGUMENT_VERSION_MISMATCH",
        "DEPRECATED",
        "NOT_READY",
        "GPU_NOT_FOUND",
        "INVALID_STATE",
        "RESET_TYPE_NOT_SUPPORTED",
    ];
    const UNKNOWN: nvmlReturn_t = 999;
    NAMES
        .iter()
        .position(|known| *known == name)
        .map_or(UNKNOWN, |code| code as nvmlReturn_t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_and_more_special_lines_win() {
        let scenario = Scenario::parse(
            "sys count 8 # comment\n* name NVIDIA  H100 80GB\n0 temp 50\n* temp 63\n* temp 64\nnonsense\nx y z\n  3   err   GPU_IS_LOST\n",
        );
        assert_eq!(scenario.gpus(), 8);
        let split = Scenario::parse("0.2 temp 30\n");
        assert_eq!(split.number(Who::Gpu(part(0, 2)), "temp"), Some(30.0));
        assert_eq!((whole(part(7, 6)), whole(7)), (7, 7));
        assert_eq!(
            scenario.text(Who::Gpu(7), "name"),
            Some("NVIDIA  H100 80GB")
        );
        assert_eq!(scenario.number(Who::Gpu(0), "temp"), Some(50.0));
        assert_eq!(scenario.number(Who::Gpu(1), "temp"), Some(64.0));
        assert_eq!(scenario.text(Who::Gpu(3), "err").map(error_code), Some(15));
        assert_eq!(scenario.text(Who::Gpu(2), "err"), None);
        assert_eq!(scenario.text(Who::System, "temp"), None);
        assert_eq!(Scenario::default().gpus(), 1);
    }

    #[test]
    fn a_ramp_goes_from_one_value_to_the_other_and_stays() {
        let at = |seconds| number_at("ramp 100 0 30", Duration::from_secs(seconds));
        assert_eq!(
            [at(0), at(15), at(30), at(99)],
            [Some(100.0), Some(50.0), Some(0.0), Some(0.0)]
        );
        assert_eq!(number_at("ramp 1 2", Duration::ZERO), None);
        assert_eq!(number_at("", Duration::ZERO), None);
    }

    #[test]
    fn delays_are_milliseconds_of_one_call_or_of_all() {
        let scenario = Scenario::parse("* delay 2\n* delay.nvmlDeviceGetName 0.5\n");
        let delay = |call| {
            scenario
                .delay(Who::Gpu(0), call)
                .map(|delay| delay.as_micros())
        };
        assert_eq!(
            (delay("nvmlDeviceGetName"), delay("nvmlDeviceGetUUID")),
            (Some(500), Some(2000))
        );
        assert_eq!(scenario.delay(Who::System, "nvmlInit_v2"), None);
    }

    #[test]
    fn errors_have_the_codes_of_the_header() {
        for (name, code) in [
            ("OK", 0),
            ("NOT_SUPPORTED", 3),
            ("GPU_IS_LOST", 15),
            ("LIB_RM_VERSION_MISMATCH", 18),
        ] {
            assert_eq!(error_code(name), code, "{name}");
        }
        assert_eq!((error_code("DEPRECATED"), error_code("what?")), (26, 999));
    }
}
