//! Copies of what a box measured, a line per minute and attempt: it can be looked at when the box is gone.
//!
//! A copy is a file of JSON lines that is only appended to; the first line says its format. A line that a crash cut short is dropped
//! when the copy is opened again, and it goes on after its last whole one. What is missing in between was never brought home: a
//! gap. A file that grows past [`MAX_BYTES`] is written anew with lines for twice the time.

mod fold;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::fold::Folder;
use super::Logbook;
use crate::agent_client::{GpuInfo, HostInfo, SampleInfo};

/// What one copy may take: a week of minutes of one GPU, a day of eight.
const MAX_BYTES: u64 = 16 << 20;
/// Longest line that is looked for at the end of a copy: 16 GPUs take a tenth of it.
const LAST_LINE_BYTES: u64 = 256 << 10;
/// Seconds that a line stands for, in a copy that was not thinned out.
const SPAN_S: u32 = 60;
const FORMAT: &str = "spotter-samples";
const VERSION: u32 = 1;

/// First line of a copy.
#[derive(Serialize, Deserialize)]
struct Heading {
    format: String,
    version: u32,
    /// Seconds that a line stands for at most.
    span_s: u32,
}

/// What was measured in a minute (or more, in a copy that was thinned out): means of loads and rates, peaks of memory and heat, the
/// newest of what counts up. Values by their name in `metrics --json`; what could not be read is not there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Minute {
    /// Its newest reading, microseconds since the epoch by the box's clock.
    pub time_us: u64,
    /// Seconds in which something was read.
    pub span_s: u32,
    /// Every GPU.
    pub gpus: Vec<Map<String, Value>>,
    /// The container.
    #[serde(default)]
    pub host: Option<Map<String, Value>>,
}

/// Least use of a GPU within the span, percent; and the most.
pub const LEAST_USE: &str = "utilisation_least_percent";
/// See [`LEAST_USE`].
pub const MOST_USE: &str = "utilisation_most_percent";

impl Minute {
    /// A number of a GPU or of the container.
    pub fn number(of: &Map<String, Value>, key: &str) -> Option<f64> {
        of.get(key)?.as_f64()
    }

    /// The same as a reading that stands for a while.
    pub fn sample(&self) -> SampleInfo {
        let gpu = |map: &Map<String, Value>| {
            serde_json::from_value::<GpuInfo>(Value::Object(map.clone())).unwrap_or_default()
        };
        let host = |map: &Map<String, Value>| {
            serde_json::from_value::<HostInfo>(Value::Object(map.clone())).ok()
        };
        SampleInfo {
            time_us: self.time_us,
            span_s: self.span_s,
            gpus: self.gpus.iter().map(gpu).collect(),
            host: self.host.as_ref().and_then(host),
            processes: Vec::new(),
        }
    }
}

impl From<&SampleInfo> for Minute {
    fn from(sample: &SampleInfo) -> Self {
        Self {
            time_us: sample.time_us,
            span_s: sample.span_s.max(1),
            gpus: sample.gpus.iter().map(gpu_values).collect(),
            host: sample.host.as_ref().map(values),
        }
    }
}

fn gpu_values(gpu: &GpuInfo) -> Map<String, Value> {
    let mut map = values(gpu);
    if let Some(used) = map.get("utilisation_percent").cloned() {
        map.insert(LEAST_USE.to_owned(), used.clone());
        map.insert(MOST_USE.to_owned(), used);
    }
    map
}

/// What is known of something; lists, such as its processes, have no history.
fn values(of: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(of) {
        Ok(Value::Object(map)) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null() && !value.is_array())
            .map(|(key, value)| (key, short(value)))
            .collect(),
        _ => Map::new(),
    }
}

/// A float with two decimals: what was read with one has nine otherwise.
fn short(value: Value) -> Value {
    match value.as_f64().filter(|_| value.is_f64()) {
        Some(float) => Value::from((float * 100.0).round() / 100.0),
        None => value,
    }
}

/// The copy of what the box of one attempt measured.
#[derive(Debug)]
pub struct SampleCopy {
    path: PathBuf,
    /// `None` before its first line.
    file: Option<File>,
    length: u64,
    max_bytes: u64,
    span_s: u32,
    folder: Folder,
    /// Newest reading that came, whether it is written down or not.
    last_us: u64,
}

impl Logbook {
    /// Where what the box of an attempt measured is copied to.
    pub fn samples_path(&self, run: &str, attempt: u32) -> PathBuf {
        self.dir.join(run).join(format!("{attempt}-samples.jsonl"))
    }

    /// Opens a copy at the place where it goes on. No file is made before there is something for it.
    ///
    /// # Errors
    /// When the file cannot be read, or a newer spotter wrote it.
    pub fn open_samples(&self, run: &str, attempt: u32) -> io::Result<SampleCopy> {
        SampleCopy::open(self.samples_path(run, attempt), MAX_BYTES)
    }

    /// Hands over every minute of a copy, oldest first; none where there is no copy.
    ///
    /// # Errors
    /// When the file cannot be read, or a newer spotter wrote it.
    pub fn each_minute(
        &self,
        run: &str,
        attempt: u32,
        each: &mut dyn FnMut(Minute),
    ) -> io::Result<()> {
        match File::open(self.samples_path(run, attempt)) {
            Ok(file) => read(file, each).map(drop),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(err) => Err(err),
        }
    }
}

/// Reads a copy to its last whole line. Answers the seconds that its lines stand for.
fn read(file: File, each: &mut dyn FnMut(Minute)) -> io::Result<u32> {
    let mut lines = BufReader::new(file);
    // Bytes, for what a bad disk damaged need not be text.
    let mut line = Vec::new();
    lines.read_until(b'\n', &mut line)?;
    let span_s = heading(&String::from_utf8_lossy(&line))?;
    let mut newest_us = 0;
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line)? == 0 || !line.ends_with(b"\n") {
            return Ok(span_s);
        }
        // One damaged line is a gap, too. One that is not newer is of another spotter that looked on for a moment.
        if let Ok(minute) = serde_json::from_slice::<Minute>(&line)
            && minute.time_us > newest_us
        {
            newest_us = minute.time_us;
            each(minute);
        }
    }
}

/// Seconds that the lines of a copy stand for, by its first line. Of one that a crash cut short there is nothing yet.
fn heading(line: &str) -> io::Result<u32> {
    if !line.ends_with('\n') {
        return Ok(SPAN_S);
    }
    match serde_json::from_str::<Heading>(line) {
        Ok(heading) if heading.format == FORMAT && heading.version <= VERSION => Ok(heading.span_s),
        Ok(heading) if heading.format == FORMAT => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "it has format {}, and this spotter knows up to {VERSION}: use the newer spotter",
                heading.version
            ),
        )),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is no copy of samples",
        )),
    }
}

fn line_of(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

impl SampleCopy {
    fn open(path: PathBuf, max_bytes: u64) -> io::Result<Self> {
        let mut copy = Self {
            path,
            file: None,
            length: 0,
            max_bytes,
            span_s: SPAN_S,
            folder: Folder::new(SPAN_S),
            last_us: 0,
        };
        let file = OpenOptions::new().read(true).append(true).open(&copy.path);
        let mut file = match file {
            Ok(file) => file,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(copy),
            Err(err) => return Err(err),
        };
        let length = file.metadata()?.len();
        let start = length.saturating_sub(LAST_LINE_BYTES);
        file.seek(SeekFrom::Start(start))?;
        let mut end = Vec::new();
        (&file).take(LAST_LINE_BYTES).read_to_end(&mut end)?;
        let whole = end.iter().rposition(|byte| *byte == b'\n');
        let Some(whole) = whole else {
            // Nothing but the beginning of a heading, or no file of ours.
            if start > 0 {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "it is no copy of samples",
                ));
            }
            file.set_len(0)?;
            return Ok(copy);
        };
        copy.length = start + whole as u64 + 1;
        if copy.length < length {
            file.set_len(copy.length)?;
        }
        let mut first = String::new();
        BufReader::new(File::open(&copy.path)?).read_line(&mut first)?;
        copy.span_s = heading(&first)?;
        copy.folder = Folder::new(copy.span_s);
        let mut lines = end[..whole].rsplit(|byte| *byte == b'\n');
        let last = lines.find_map(|line| serde_json::from_slice::<Minute>(line).ok());
        copy.last_us = last.map_or(0, |minute| minute.time_us);
        copy.file = Some(file);
        Ok(copy)
    }

    /// Newest reading that came, by the box's clock; 0: none did.
    pub fn last_us(&self) -> u64 {
        self.last_us
    }

    /// Takes readings, oldest first, and writes down each minute that is over.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&mut self, samples: &[SampleInfo]) -> io::Result<()> {
        for sample in samples {
            if sample.time_us <= self.last_us {
                continue;
            }
            self.last_us = sample.time_us;
            if let Some(minute) = self.folder.add(&sample.into()) {
                self.append(&minute)?;
            }
        }
        Ok(())
    }

    /// Writes down the minute that is not over: nothing more will come. Answers when all of it is on the disk for good.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn settle(&mut self) -> io::Result<()> {
        if let Some(minute) = self.folder.take() {
            self.append(&minute)?;
        }
        self.file.as_ref().map_or(Ok(()), File::sync_all)
    }

    fn append(&mut self, minute: &Minute) -> io::Result<()> {
        let line = line_of(minute)?;
        if self.length + line.len() as u64 > self.max_bytes {
            self.thin_out()?;
        }
        let mut all = Vec::new();
        if self.file.is_none() || self.length == 0 {
            self.file = Some(self.make()?);
            all = self.heading()?;
        }
        all.extend_from_slice(&line);
        let file = self.file.as_mut().expect("it was made if it was not there");
        file.write_all(&all)?;
        self.length += all.len() as u64;
        Ok(())
    }

    fn heading(&self) -> io::Result<Vec<u8>> {
        line_of(&Heading {
            format: FORMAT.to_owned(),
            version: VERSION,
            span_s: self.span_s,
        })
    }

    fn make(&self) -> io::Result<File> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&self.path)
    }

    /// Writes the copy anew with lines for twice the time, aside first.
    fn thin_out(&mut self) -> io::Result<()> {
        let span_s = self.span_s.saturating_mul(2);
        let mut folder = Folder::new(span_s);
        let aside = self.path.with_extension("new");
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&aside)?;
        let mut out = BufWriter::new(file);
        self.span_s = span_s;
        out.write_all(&self.heading()?)?;
        let mut written = Ok(());
        let mut write = |minute: Option<Minute>| {
            if written.is_ok()
                && let Some(minute) = minute
            {
                written = line_of(&minute).and_then(|line| out.write_all(&line));
            }
        };
        read(File::open(&self.path)?, &mut |minute| {
            write(folder.add(&minute));
        })?;
        write(folder.take());
        written?;
        out.into_inner()
            .map_err(io::IntoInnerError::into_error)?
            .sync_all()?;
        fs::rename(&aside, &self.path)?;
        let file = self.make()?;
        self.length = file.metadata()?.len();
        self.file = Some(file);
        self.folder.lengthen(span_s);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
