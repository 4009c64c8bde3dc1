//! What a window shows of looks that were made up.

use super::*;

const GIB_BYTES: u64 = 1 << 30;

fn gpu(utilisation: f64, used_gib: u64) -> GpuReading {
    GpuReading {
        utilisation_percent: Some(utilisation),
        memory_used_bytes: Some(used_gib * GIB_BYTES),
        memory_total_bytes: Some(24 * GIB_BYTES),
        ..GpuReading::default()
    }
}

fn reading(second: u64, gpus: Vec<GpuReading>, training: Option<Latest>) -> Reading {
    Reading {
        time_us: second * 1_000_000,
        gpus,
        log_bytes: second * 2_000,
        network_rx_bytes: Some(second * 5_000_000),
        disk_free_bytes: Some(1_000_000_000 - second * 1_000_000),
        io_pressure_percent: Some(40.0),
        disk_blocked: Some(second.is_multiple_of(2)),
        disk_read_bytes_per_s: Some(7e6),
        training,
        ..Reading::default()
    }
}

fn line(second: u64, step: u64, loss: f64) -> Latest {
    Latest {
        time_us: second * 1_000_000,
        step: Some(step),
        total_steps: Some(1_000),
        loss: Some(loss),
        printed: Printed {
            loss_us: second * 1_000_000 + 1,
            ..Printed::default()
        },
        ..Latest::default()
    }
}

#[test]
fn a_value_counts_in_the_window_in_which_it_was_printed_and_in_no_other() {
    // The loss and the speed of second 1; after it only steps are printed, by a bar.
    let bar = |second: u64| Latest {
        tokens_per_s: Some(500.0),
        step_time_s: Some(6.0),
        printed: Printed {
            loss_us: 1_000_000,
            tokens_per_s_us: 1_000_000,
            step_time_us: second.max(1) * 1_000_000,
            ..Printed::default()
        },
        ..line(second.max(1), 100 + second / 6, 2.31)
    };
    let window = |tally: &mut Tally, from: u64| {
        for second in from..from + 300 {
            tally.add(&reading(second, Vec::new(), Some(bar(second))), 0.92);
        }
        let figures = tally.figures(None);
        *tally = tally.next();
        (figures.loss, figures.tokens_per_s, figures.step_time_s)
    };
    let mut tally = Tally::default();
    let first = window(&mut tally, 1);
    assert_eq!(first, (Some(2.31), Some(500.0), Some(6.0)));
    assert_eq!(window(&mut tally, 301), (None, None, Some(6.0)));
    // A daemon that begins in the midst of a training reads again what its predecessor counted.
    let mut restarted = Tally::after(Some(&bar(1)));
    let next = window(&mut restarted, 2);
    assert_eq!(next, (None, None, Some(6.0)));
}

#[test]
fn a_window_records_the_five_figures_and_the_patterns() {
    let mut tally = Tally::default();
    for second in 0..=600_u64 {
        // A step every 3 s, and the second GPU does half of what the first does.
        let printed = line(second / 3 * 3, second / 3, 2.0);
        let gpus = vec![
            gpu(90.0, 20),
            gpu(45.0, if second == 300 { 23 } else { 10 }),
        ];
        tally.add(&reading(second, gpus, Some(printed)), 0.92);
    }
    let got = tally.figures(Some((0, 3_000.0)));
    assert_eq!(got.gpu_utilisation_percent, Some(67.5));
    assert_eq!(got.memory_peak_gib, Some(23.0));
    assert!((got.memory_percent.unwrap() - 62.55).abs() < 0.1, "{got:?}");
    assert!((got.step_time_s.unwrap() - 3.0).abs() < 1e-9, "{got:?}");
    assert_eq!((got.step, got.steps), (Some(200), Some(200)));
    assert_eq!(got.steps_left, Some(800));
    // 800 steps of 3 s are left; 2400 s were promised to be left by now.
    assert_eq!((got.eta_s, got.eta_shift_s), (Some(2_400.0), Some(0.0)));
    assert_eq!(got.gpu_spread_percent, Some(45.0));
    assert!((got.memory_high_share.unwrap() - 1.0 / 601.0).abs() < 1e-9);
    let rates = [
        got.log_kb_per_s,
        got.network_mb_per_s,
        got.disk_growth_mb_per_s,
    ];
    assert_eq!(rates, [Some(2.0), Some(5.0), Some(1.0)]);
    let waited = (got.io_pressure_percent, got.disk_read_mb_per_s);
    assert_eq!(waited, (Some(40.0), Some(7.0)));
    let blocked = got.disk_blocked_share.unwrap();
    assert!((blocked - 301.0 / 601.0).abs() < 1e-9, "{blocked}");
    assert!(!got.loss_broken);
}

#[test]
fn what_was_not_seen_is_absent_and_a_log_in_blocks_has_its_true_pace() {
    let mut tally = Tally::default();
    for second in 0..=120_u64 {
        // Thirty steps at once every minute: a buffer that is written when it is full.
        let printed = line(second / 60 * 60, second / 60 * 30, f64::NAN);
        tally.add(&reading(second, Vec::new(), Some(printed)), 0.92);
    }
    let got = tally.figures(None);
    assert_eq!((got.gpu_utilisation_percent, got.samples), (None, 0));
    assert_eq!(
        (got.memory_high_share, got.gpu_spread_percent),
        (None, None)
    );
    assert_eq!(got.step_time_s, Some(2.0));
    assert!(got.loss_broken, "{got:?}");
    assert_eq!(Tally::default().figures(None), Figures::default());
}

#[test]
fn a_counter_that_goes_back_has_not_made_negative_steps() {
    let mut tally = Tally::default();
    for (second, step) in [(0, 90), (10, 95), (20, 5), (30, 10)] {
        tally.add(
            &reading(second, Vec::new(), Some(line(second, step, 2.0))),
            0.92,
        );
    }
    let got = tally.figures(None);
    assert_eq!(
        (got.step, got.steps, got.step_time_s),
        (Some(10), Some(5), Some(2.0))
    );
}

#[test]
fn pauses_between_steps_and_what_moved_are_of_their_own_window() {
    let mut tally = Tally::default();
    let mut window = |looks: &[(u64, u64, u64)]| {
        for (second, step, moved) in looks {
            let mut printed = line(*moved, *step, 2.0);
            printed.printed.moved_us = *moved;
            tally.add(&reading(*second, Vec::new(), Some(printed)), 0.92);
        }
        let got = tally.figures(None);
        tally = tally.next();
        (got.stepped_us, got.longest_pause_us, got.moved, got.steps)
    };
    let first = window(&[(0, 1, 1), (10, 2, 2), (40, 3, 3), (45, 4, 4)]);
    assert_eq!(
        first,
        (Some((10_000_000, 45_000_000)), 30_000_000, true, Some(3))
    );
    // The bar of an evaluation, then nothing.
    assert_eq!(window(&[(50, 4, 4), (60, 4, 9)]), (None, 0, true, Some(0)));
    assert_eq!(window(&[(70, 4, 9), (80, 4, 9)]), (None, 0, false, Some(0)));
}

#[test]
fn losses_are_counted_in_a_row_and_memory_without_a_word_of_utilisation() {
    let mut tally = Tally::default();
    for (second, loss) in [(1, f64::NAN), (2, 2.0), (3, f64::NAN), (4, f64::NAN)] {
        let part = GpuReading {
            utilisation_percent: None,
            ..gpu(0.0, 23)
        };
        tally.add(
            &reading(second, vec![part], Some(line(second, 1, loss))),
            0.92,
        );
    }
    let got = tally.figures(None);
    assert_eq!((got.loss_broken, got.losses_broken), (false, 2));
    assert_eq!(got.gpu_utilisation_percent, None);
    assert_eq!(
        (got.memory_peak_gib, got.memory_high_share),
        (Some(23.0), Some(1.0))
    );
}
