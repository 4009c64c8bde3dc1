//! A log in pieces of any size says what it says in one, and what a user asks of it is answered or refused.

use spotter_trainlog::{Metric, Progress, Reader};

fn read(log: &[u8], size: usize) -> String {
    let mut reader = Reader::default();
    let mut seen = 0;
    for piece in log.chunks(size) {
        reader.feed(piece, &mut |_| seen += 1);
        reader.waiting();
    }
    reader.end(&mut |_| seen += 1);
    format!("{seen} {:?} {:?}", reader.summary(), reader.diagnosis())
}

pub(crate) fn check(input: &[u8]) {
    // The first byte is the size of the pieces; the rest is the log.
    let Some((size, log)) = input.split_first() else {
        return;
    };
    assert_eq!(
        read(log, log.len().max(1)),
        read(log, usize::from(*size).max(1))
    );
    // Any text may be what a user gives as the pattern of his progress or the name of his metric.
    if let Ok(text) = std::str::from_utf8(log) {
        let _ = Progress::new(text);
        if let Ok(metric) = Metric::new(text) {
            metric.value(log);
        }
    }
}
