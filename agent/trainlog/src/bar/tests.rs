//! Bars as they are drawn, and what is read of them.

use super::*;

/// Position, total, speed, time left, postfix, rest.
fn check(line: &str, expected: &str) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes.trim_ascii()).into_owned();
    let got = parse(line.as_bytes()).map_or_else(String::new, |bar| {
        format!(
            "{}/{} {} <{} [{}] {}",
            bar.position.text,
            bar.total
                .map_or("?".into(), |total| total.text.as_str().to_owned()),
            bar.rate.map_or_else(String::new, |(rate, unit)| format!(
                "{}{}",
                rate.text,
                unit.as_str()
            )),
            bar.remaining
                .map_or_else(String::new, |text| text.as_str().to_owned()),
            text(bar.postfix),
            text(bar.rest),
        )
    });
    assert_eq!(got, expected, "{line}");
}

#[test]
fn bars_of_every_kind_are_read() {
    check(
        " 50%|##  | 12/24 [00:44<00:42,  4.0s/it]tail",
        "12/24 4.0s/it <00:42 [] tail",
    );
    check(
        "100%|####| 24/24 [01:22<00:00,  2.0step/s, loss=1, lr=[1e-4]]",
        "24/24 2.0steps/s <00:00 [loss=1, lr=[1e-4]] ",
    );
    check(
        "Epoch 0: :  47%|##| 7/15 [06:19<07:13, reduced_train_loss=11.50]",
        "7/15  <07:13 [reduced_train_loss=11.50] ",
    );
    check("  0%|    | 0/312.5 [00:00<?, ?it/s]", "0/312.5  < [] ");
    check(
        "100% 3/3 [00:05<00:00,  1.75s/it]",
        "3/3 1.75s/it <00:00 [] ",
    );
    check("Training: 51it [00:20,  2.53it/s]", "51/? 2.53it/s < [] ");
    check(
        "Epoch 2/9 ━━━━━━━━ 98/98 0:00:22 • 0:00:10 4.44it/s v_num: 0 train/loss: 1.5",
        "98/98 4.44it/s <0:00:10 [v_num: 0 train/loss: 1.5] ",
    );
    check(
        "  1/2  0G  0.88  4.0  1.2  41  640: 14% ━╸────────── 20/147 4.0s/it 1:26<8:33",
        "20/147 4.0s/it <8:33 [] ",
    );
    check(
        " 37/43 [========>.....] - ETA: 21:00 - loss: 48.9",
        "37/43  <21:00 [- ETA: 21:00 - loss: 48.9] ",
    );
    check(
        "422/422 ━━━━━━━━━━ 47s 108ms/step - loss: 0.5",
        "422/422 108ms/step < [47s 108ms/step - loss: 0.5] ",
    );
    check(
        "Epoch 0: |     | 51/? [00:20<00:00,  2.51it/s, v_num=0]",
        "51/? 2.51it/s <00:00 [v_num=0] ",
    );
    check(
        "INFO - Progress on:train 11.0it/20.0kit rate:3.4s/it remaining:18:53:20 elapsed:17:46 postfix:loss=9.51",
        "11/20k 3.4s/it <18:53:20 [loss=9.51] ",
    );
}

#[test]
fn what_only_looks_like_a_bar_is_none() {
    for line in [
        "50%| no",
        "%|##| 1/2 [",
        "5%|# | a/b [",
        "5%|# | 1/2",
        "mfu 3%",
        "━━━━━━ heading ━━━━━",
        "it [is]",
        "shard 2.5/10 [00:05<00:10, 3.0it/s]",
        "part-3/10 [00:05<00:10, 3.0it/s]",
        "",
    ] {
        check(line, "");
    }
}

#[test]
fn names_tell_training_from_other_work() {
    let bar = "  40%|####      | 4/10 [00:01<00:01,  4.0it/s]";
    for (name, expected) in [
        ("", Role::Unnamed),
        ("[rank0]:", Role::Unnamed),
        ("Training progress:", Role::Training),
        ("Epoch 3:", Role::Training),
        ("steps:", Role::Training),
        ("Evaluating:", Role::Other),
        ("Loading weights:", Role::Other),
        ("Fetching 8 files:", Role::Other),
        ("Anything:", Role::Other),
        ("d: -23.5;gen: -0.2:", Role::Unnamed),
        ("size: 1.5 GB:", Role::Other),
        ("used: 1.5GB:", Role::Other),
    ] {
        let line = format!("{name}{bar}");
        assert_eq!(parse(line.as_bytes()).unwrap().role(), expected, "{name}");
    }
    let transfer = b"model:  50%|#####| 1.2G/2.4G [00:10<00:10, 120MB/s]";
    assert_eq!(parse(transfer).unwrap().role(), Role::Other);
    // pip.
    let transfer = "   ━━━━━━━━━━━━━━━━━━━━ 1.2/3.4 MB 5.6 MB/s eta 0:00:01";
    assert_eq!(parse(transfer.as_bytes()).unwrap().role(), Role::Other);
}
