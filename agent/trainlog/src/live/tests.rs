//! Logs in, newest values out.

use super::*;
use std::fs;
use std::path::Path;

mod places;
#[path = "../../../../tests/skip.rs"]
mod skip;

/// Feeds a log in pieces of every small size and all at once: the result must not depend on it.
fn read(log: &[u8]) -> Option<Latest> {
    let whole = {
        let mut recogniser = Recogniser::default();
        recogniser.feed(log, 7);
        recogniser.end(7);
        recogniser.latest()
    };
    for size in [1, 3, 64] {
        let mut recogniser = Recogniser::default();
        for piece in log.chunks(size) {
            recogniser.feed(piece, 7);
        }
        recogniser.end(7);
        // Debug text, because a loss that is not a number equals nothing.
        assert_eq!(
            format!("{:?}", recogniser.latest()),
            format!("{whole:?}"),
            "in pieces of {size}"
        );
    }
    whole
}

fn check(log: &str, expected: Latest) {
    let got = read(log.as_bytes()).unwrap_or_default();
    let expected = Latest {
        time_us: got.time_us,
        printed: got.printed,
        ..expected
    };
    assert_eq!(format!("{got:?}"), format!("{expected:?}"), "{log:?}");
}

#[test]
fn the_dictionaries_of_the_hf_trainer() {
    let train = Latest {
        epoch: Some(0.5),
        loss: Some(2.25),
        learning_rate: Some(3e-5),
        ..Latest::default()
    };
    check(
        "{'loss': 2.25, 'grad_norm': 1.5, 'learning_rate': 3e-05, 'epoch': 0.5}\n",
        Latest {
            grad_norm: Some(1.5),
            ..train
        },
    );
    check(
        "{'loss': '2.25', 'learning_rate': '3e-05', 'epoch': '0.5'}\n",
        train,
    );
    check(
        "{\"loss\": 2.25, \"learning_rate\": 3e-05, \"epoch\": 0.5, \"step\": 40}\n",
        Latest {
            step: Some(40),
            ..train
        },
    );
    check(
        "[rank0]: {'loss': 2.25, 'learning_rate': 3e-05, 'epoch': 0.5}\r\n",
        train,
    );
    check(
        "{'loss': nan, 'epoch': 1}\n",
        Latest {
            loss: Some(f64::NAN),
            epoch: Some(1.0),
            ..Latest::default()
        },
    );
    check(
        "{'loss': 2.25, 'learning_rate': 3e-05, 'epoch': 0.5}\n{'eval_loss': 2.5, 'eval_runtime': 7.0, 'eval_samples_per_second': 25.6, 'epoch': 0.6}\n",
        Latest {
            eval_loss: Some(2.5),
            ..train
        },
    );
    check(
        "{'loss': 2.25, 'learning_rate': 3e-05, 'epoch': 0.5}\n{'train_runtime': 82.8, 'train_samples_per_second': 4.2, 'train_loss': 9.0, 'epoch': 3}\n",
        train,
    );
}

#[test]
fn progress_bars_give_step_total_and_time_per_step() {
    let bar = |step, total_steps, step_time_s| Latest {
        step: Some(step),
        total_steps: Some(total_steps),
        step_time_s: Some(step_time_s),
        ..Latest::default()
    };
    check(
        "\r  0%|          | 0/24 [00:00<?, ?it/s]\r 50%|#####     | 12/24 [00:44<00:42,  3.5s/it]",
        bar(12, 24, 3.5),
    );
    check(
        "\u{1b}[A\r 62%|██████▎   | 15/24 [00:54<00:31,  4.00it/s]\n",
        bar(15, 24, 0.25),
    );
    check(
        "  1%|1| 10/1000 [1:02:03<2:00:00, 247.5s/it]",
        bar(10, 1000, 247.5),
    );
    check(
        "Training progress:  34%|███▍      | 17070/50000 [31:57<1:32:27,  2.00it/s, Loss=0.13217, distort=0.5]\r",
        Latest {
            loss: Some(0.13217),
            ..bar(17_070, 50_000, 0.5)
        },
    );
    check(
        " 10%|█         | 5/50 [00:10<01:30,  2.0s/it]{'loss': 1.5, 'epoch': 0.1}\n",
        Latest {
            loss: Some(1.5),
            epoch: Some(0.1),
            ..bar(5, 50, 2.0)
        },
    );
    // The first bar of a trainer has no rate yet.
    check(
        "  0%|          | 0/24 [00:00<?, ?it/s]\n",
        Latest {
            step: Some(0),
            total_steps: Some(24),
            ..Latest::default()
        },
    );
}

#[test]
fn bars_of_other_work_are_not_the_training() {
    for bar in [
        "Loading weights:  40%|####      | 136/338 [00:03<00:03, 56.9it/s]\r",
        "Map:  10%|█         | 1000/10000 [00:01<00:09, 998.00 examples/s]\r",
        "Evaluating:  50%|█████     | 4/8 [00:01<00:01,  3.00it/s]\r",
        "model.safetensors:  50%|█████     | 1.2G/2.4G [00:10<00:10, 120MB/s]\r",
    ] {
        assert_eq!(read(bar.as_bytes()), None, "{bar}");
    }
    // An evaluation without a name runs inside the training's bar.
    let log = " 50%|#####     | 500/1000 [10:00<10:00,  1.0s/it]\r 40%|####      | 4/10 [00:01<00:01,  4.0it/s]\r";
    assert_eq!(
        read(log.as_bytes()).map(|record| (record.step, record.total_steps)),
        Some((Some(500), Some(1000)))
    );
    // A finished bar is followed by that of the next phase.
    let log = "100%|##########| 10/10 [00:01<00:00,  9.0it/s]\n  1%|          | 7/1000 [00:07<10:00,  1.0s/it]\r";
    assert_eq!(
        read(log.as_bytes()).map(|record| (record.step, record.total_steps)),
        Some((Some(7), Some(1000)))
    );
}

#[test]
fn the_step_lines_of_nanogpt_and_nanochat() {
    check(
        "iter 100: loss 2.5, time 12.50ms, mfu 3.10%\n",
        Latest {
            step: Some(100),
            loss: Some(2.5),
            step_time_s: Some(0.0125),
            ..Latest::default()
        },
    );
    let step = Latest {
        step: Some(50),
        total_steps: Some(4000),
        loss: Some(2.9),
        ..Latest::default()
    };
    check(
        "step 50/4000 | loss 2.9 | lr 1e-3 | 3.5 ms/step | 1,184,689 tok/s\n",
        Latest {
            learning_rate: Some(1e-3),
            step_time_s: Some(0.0035),
            tokens_per_s: Some(1_184_689.0),
            ..step
        },
    );
    check(
        "step 00050/4000 (1.25%) | loss: 2.9 | lrm: 0.01 | dt: 940.00ms | tok/sec: 277,786 | mfu: 49.04 | total time: 333.63m\n",
        Latest {
            step_time_s: Some(0.94),
            tokens_per_s: Some(277_786.0),
            ..step
        },
    );
    check(
        "iter 71: loss nan, time 250.00ms\n",
        Latest {
            step: Some(71),
            loss: Some(f64::NAN),
            step_time_s: Some(0.25),
            ..Latest::default()
        },
    );
    // The evaluation of nanoGPT prints a mean over many batches: not the loss of its step.
    check(
        "iter 70: loss 3.25, time 250.00ms\nstep 75: train loss 3.5, val loss 3.75\n",
        Latest {
            step: Some(70),
            loss: Some(3.25),
            step_time_s: Some(0.25),
            eval_loss: Some(3.75),
            ..Latest::default()
        },
    );
    check("Step 21400 | CORE metric: 0.2124\n", Latest::default());
}

#[test]
fn plain_keys_with_values() {
    check(
        "2026-01-02 03:04:05,678 INFO [rank3] epoch=2 global_step=1,500 train_loss=0.75 lr=2.0e-4 grad_norm=0.5 samples/s=120.5\n",
        Latest {
            step: Some(1500),
            epoch: Some(2.0),
            loss: Some(0.75),
            learning_rate: Some(2e-4),
            grad_norm: Some(0.5),
            samples_per_s: Some(120.5),
            ..Latest::default()
        },
    );
    check(
        "\u{1b}[32mstep: 20\u{1b}[0m  \u{1b}[1mloss:  3.6\u{1b}[0m  tps: 70,660\n",
        Latest {
            step: Some(20),
            loss: Some(3.6),
            tokens_per_s: Some(70_660.0),
            tokens_per_s_per_gpu: Some(70_660.0),
            ..Latest::default()
        },
    );
    check(
        "Step: 10 | Loss: -0.5 | Val_Loss: 0.25 | step_time: 250ms\n",
        Latest {
            step: Some(10),
            loss: Some(-0.5),
            eval_loss: Some(0.25),
            step_time_s: Some(0.25),
            ..Latest::default()
        },
    );
    check(
        "step=360, skipped=3, lr=[5e-05, 5e-05]\n",
        Latest {
            step: Some(360),
            learning_rate: Some(5e-5),
            ..Latest::default()
        },
    );
}

#[test]
fn prose_and_settings_are_not_records() {
    for line in [
        "learning_rate = 0.0006\n",
        "max_steps: 1000\n",
        "epoch: 3\n",
        "Saving model checkpoint to out/checkpoint-500\n",
        "The loss 3 years ago was 7\n",
        "aux loss: 0.5\n",
        "[2025-02-16 04:22:25,195] [INFO] [engine.py:21:save] step\n",
        "\n\r\r\n",
    ] {
        assert_eq!(read(line.as_bytes()), None, "{line:?}");
    }
    assert_eq!(read(&[0xff, 0xfe, b'1', 0, b'\n', 0x1b, b'[', b'\n']), None);
}

#[test]
fn a_line_longer_than_the_buffer_is_passed_over_and_the_next_is_read() {
    let long = format!(
        "{{'loss': 1.0, 'x': '{}', 'epoch': 9}}\nloss=2.0 step=4\n",
        "x".repeat(100_000)
    );
    check(
        &long,
        Latest {
            step: Some(4),
            loss: Some(2.0),
            ..Latest::default()
        },
    );
}

#[test]
fn feed_says_when_there_is_something_new() {
    let mut recogniser = Recogniser::default();
    assert_eq!(recogniser.feed(b"nothing here 5\n", 1), None);
    assert_eq!(
        recogniser.feed(b"step=1 loss=2.0", 2),
        None,
        "the line may go on"
    );
    let record = recogniser.feed(b"5\n", 3).unwrap();
    assert_eq!((record.loss, record.time_us), (Some(2.05), 3));
    assert_eq!(recogniser.feed(b"nothing here 5\n", 4), None);
    assert_eq!(recogniser.latest(), Some(record));
}

#[test]
fn a_value_that_is_kept_is_not_taken_for_one_that_was_printed_again() {
    let mut recogniser = Recogniser::default();
    recogniser.feed(b"{'loss': 2.25, 'epoch': 0.5}\n", 5);
    recogniser.feed(b"{'eval_loss': 2.5, 'epoch': 0.6}\n", 6);
    recogniser.feed(b"\r 50%|#####     | 12/24 [00:44<00:42,  3.5s/it]", 7);
    assert_eq!(recogniser.feed(b"", 8), None, "nothing was printed");
    let latest = recogniser.latest().unwrap();
    assert_eq!((latest.loss, latest.step), (Some(2.25), Some(12)));
    let printed = Printed {
        loss_us: 5,
        tokens_per_s_us: 0,
        per_gpu_us: 0,
        step_time_us: 7,
        moved_us: 7,
    };
    assert_eq!(latest.printed, printed);
}

#[test]
fn only_what_is_new_moves_a_training_on() {
    let mut recogniser = Recogniser::default();
    let mut now = 0;
    for (text, new) in [
        ("{'loss': 2.25, 'epoch': 0.5}\n", true),
        ("{'loss': 2.25, 'epoch': 0.5}\n", false),
        ("{'loss': 2.24, 'epoch': 0.6}\n", true),
        ("waiting for 3 workers\n", false),
        ("{'eval_loss': 2.5, 'epoch': 0.6}\n", true),
        ("{'eval_loss': 2.5, 'epoch': 0.6}\n", false),
        ("Epoch 2/3\n", true),
        ("Epoch 2/3\n", false),
        ("\r 50%|#####     | 12/24 [00:44<00:42,  3.5s/it]", true),
        // The bar that waited counts once more when its redraw completes it.
        ("\r 50%|#####     | 12/24 [00:48<00:46,  3.8s/it]", true),
        ("\r 50%|#####     | 12/24 [00:52<00:50,  4.1s/it]", false),
        ("\r 54%|#####     | 13/24 [00:48<00:42,  3.5s/it]", true),
        (
            "\nEvaluating:  50%|#####     | 3/6 [00:04<00:04,  1.5s/it]\n",
            true,
        ),
        (
            "Evaluating:  50%|#####     | 3/6 [00:04<00:04,  1.5s/it]\n",
            false,
        ),
    ] {
        now += 1;
        let before = recogniser.latest().unwrap_or_default().printed.moved_us;
        recogniser.feed(text.as_bytes(), now);
        let after = recogniser.latest().unwrap_or_default().printed.moved_us;
        assert_eq!(after > before, new, "{text:?}");
    }
}

#[test]
fn real_logs_end_with_the_step_and_the_loss_that_people_read_in_them() {
    const FAMILIES: [&str; 6] = [
        "hf-trainer",
        "trl-grpo",
        "gaussian-splatting",
        "nanogpt",
        "nanochat",
        "llm.c",
    ];
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/logs");
    let Ok(index) = fs::read_to_string(dir.join("index.tsv")) else {
        return skip::excuse("no folder of recorded logs is at hand");
    };
    let mut rows = index
        .lines()
        .map(|line| line.split('\t').collect::<Vec<_>>());
    let head = rows.next().unwrap();
    let column = |name: &str| head.iter().position(|cell| *cell == name).unwrap();
    let (file, framework) = (column("file"), column("framework"));
    let (records, step, total, loss) = (
        column("step_records"),
        column("last_step"),
        column("total_steps"),
        column("last_loss"),
    );
    let mut checked = 0;
    for row in rows.filter(|row| FAMILIES.contains(&row[framework]) && row[records] != "0") {
        let record = read(&fs::read(dir.join(row[file])).unwrap()).unwrap_or_default();
        let number = |text: &str| text.parse::<f64>().ok();
        assert_eq!(
            record.step.map(|step| step as f64),
            number(row[step]),
            "last step of {}",
            row[file]
        );
        assert_eq!(
            format!("{:?}", record.loss),
            format!("{:?}", number(row[loss])),
            "last loss of {}",
            row[file]
        );
        if row[total] != "-" {
            assert_eq!(
                record.total_steps.map(|total| total as f64),
                number(row[total]),
                "total of {}",
                row[file]
            );
        }
        checked += 1;
    }
    assert!(checked >= 7, "only {checked} logs were checked");
}
