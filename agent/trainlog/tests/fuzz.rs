//! Whatever comes: nothing panics, pieces do not matter, and memory stays bounded.
#![allow(clippy::unwrap_used, reason = "a test may hope")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

use proptest::prelude::*;
use spotter_trainlog::Reader;

/// Counts what is held, so that a test can say what a log costs.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator unchanged; only numbers are kept beside.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Pieces of logs, cut where it hurts.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "step 5: loss 2.5, lr 1e-3\n",
        "{'loss': 2.5, 'epoch': 0.5}\n",
        " 50%|##  | 12/24 [00:44<00:42,  4.0s/it]",
        "\r",
        "37/43 [===>...] - ETA: 21:00 - loss: 48.9",
        "━━━━ 3/9 0:00:22 • 0:00:10 4.44it/s",
        "| loss | 5.5 |\n",
        "[step=5/10]\n",
        "Epoch 3/9\n",
        "loss:",
        "=",
        "[",
        "]",
        "(",
        "1,000",
        "1e",
        "nan",
        "inf",
        "/",
        "%|",
        "|",
        "it [",
        "0:00",
        "<?",
        "\x1b[31m",
        "\x1b[",
        "\x08",
        "\u{feff}",
        "Traceback (most recent call last):\n",
        "ValueError: x\n",
        "CUDA out of memory",
        "Killed\n",
        "[10]\ttrain-rmse:0.5\n",
        "0/360, RunningAvgSamplesPerSec=5",
        "eta: 1 day, 3:11:10",
        "\n",
        " ",
        "-",
        "9999999999999999999999",
    ]);
    prop_oneof![
        4 => known.prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..12),
        1 => "\\PC{0,12}".prop_map(String::into_bytes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_in_any_pieces_give_the_same_summary(
        fragments in prop::collection::vec(fragment(), 0..60),
        size in 1_usize..40,
    ) {
        let log = fragments.concat();
        let read = |size: usize| {
            let mut reader = Reader::default();
            let mut seen = 0;
            for piece in log.chunks(size) {
                reader.feed(piece, &mut |_| seen += 1);
                reader.waiting();
            }
            reader.end(&mut |_| seen += 1);
            (format!("{:?}", reader.summary()), format!("{:?}", reader.diagnosis()), seen)
        };
        prop_assert_eq!(read(log.len().max(1)), read(size));
    }
}

#[test]
fn memory_is_bounded_whatever_the_log_is() {
    const MIB: usize = 1 << 20;
    let mut reader = Reader::default();
    let feed = |reader: &mut Reader, piece: &[u8], times: usize| {
        for _ in 0..times {
            reader.feed(piece, &mut |_| {});
        }
    };
    // The automata are made once.
    feed(&mut reader, b"step 1: loss 2.0, lr 0.1\n", 1);
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    // Half a gigabyte without a line end.
    feed(&mut reader, &vec![b'x'; MIB], 512);
    feed(&mut reader, b"\n", 1);
    // Bars that only redraw, records that differ, failures of every line.
    let redraws: Vec<u8> = (0..20_000)
        .flat_map(|step| format!("\r  1%|#| {step}/30000 [00:10<00:42,  4.0s/it]").into_bytes())
        .collect();
    feed(&mut reader, &redraws, 4);
    let records: Vec<u8> = (0..20_000)
        .flat_map(|step| {
            format!("{{'loss': {step}.5, 'epoch': {step}}}\nValueError: {step}\nKilled {step}\n")
                .into_bytes()
        })
        .collect();
    feed(&mut reader, &records, 4);
    let peak = PEAK.load(Ordering::Relaxed) - before;
    // Made here: the pieces themselves, about five of these.
    let pieces = MIB + 2 * redraws.capacity() + 2 * records.capacity();
    assert!(
        peak < pieces + MIB,
        "{} KiB above the pieces",
        peak.saturating_sub(pieces) >> 10
    );
    let held = HELD.load(Ordering::Relaxed) - before - redraws.capacity() - records.capacity();
    assert!(held < MIB / 4, "{} KiB held", held >> 10);
}
