//! Positions in an epoch, and in the training.

use super::*;

/// Step and total after each line of a log.
fn places(lines: &[&str]) -> Vec<(Option<u64>, Option<u64>)> {
    let mut recogniser = Recogniser::default();
    let place = |line: &&str| {
        recogniser.feed(format!("{line}\n").as_bytes(), 7);
        let latest = recogniser.latest().unwrap_or_default();
        (latest.step, latest.total_steps)
    };
    lines.iter().map(place).collect()
}

#[test]
fn a_position_in_an_epoch_is_no_position_in_the_training() {
    // The bar names its epoch, and how many there are; the first is called 1.
    assert_eq!(
        places(&[
            "Epoch 1/3:  50%|#####     | 5/10 [00:05<00:05, 1.0it/s, loss=2.5]",
            "Epoch 2/3: 100%|##########| 10/10 [00:10<00:00, 1.0it/s, loss=2.4]",
            "Epoch 3/3:  10%|#         | 1/10 [00:01<00:09, 1.0it/s, loss=2.3]",
        ]),
        [
            (Some(5), Some(30)),
            (Some(20), Some(30)),
            (Some(21), Some(30))
        ]
    );
    // Nobody says how many: no total is better than that of an epoch.
    assert_eq!(
        places(&[
            "Epoch 0:  50%|#####     | 5/10 [00:05<00:05, 1.0it/s, v_num=1, loss=2.5]",
            "Epoch 1:  10%|#         | 1/10 [00:01<00:09, 1.0it/s, v_num=1, loss=2.4]",
        ]),
        [(Some(5), None), (Some(11), None)]
    );
    assert_eq!(
        places(&["Train: 2 [  50/100 ( 50%)]  Loss: 2.5 (2.6)  LR: 1.0e-3"]),
        [(Some(150), None)]
    );
    // Under a heading it may be either, until the counter begins anew...
    assert_eq!(
        places(&[
            "Epoch 1/2",
            "10/10 [==============================] - 5s 50ms/step - loss: 2.5",
            "Epoch 2/2",
            " 4/10 [===========>..................] - ETA: 3s - loss: 2.4",
        ]),
        [
            (None, None),
            (Some(10), None),
            (Some(10), None),
            (Some(14), Some(20))
        ]
    );
    // ...or goes on.
    assert_eq!(
        places(&[
            "epoch 1/2 step 40/100 loss 2.5",
            "epoch 2/2 step 60/100 loss 2.4",
        ]),
        [(Some(40), None), (Some(60), Some(100))]
    );
    // Bars without a name that end and begin again are epochs too; half an epoch is counted beside the steps of all.
    assert_eq!(
        places(&[
            "100%|##########| 10/10 [00:10<00:00, 1.0it/s, loss=2.5]",
            " 10%|#         | 1/10 [00:01<00:09, 1.0it/s, loss=2.4]",
        ]),
        [(Some(10), Some(10)), (Some(1), None)]
    );
    assert_eq!(
        places(&[
            "step 5/100 loss 2.5 epoch 1.05",
            "step 6/100 loss 2.5 epoch 2.0"
        ]),
        [(Some(5), Some(100)), (Some(6), Some(100))]
    );
    // A restart from a checkpoint begins no epoch.
    assert_eq!(
        places(&["step 50/100 loss 2.5", "step 41/100 loss 2.6"]),
        [(Some(50), Some(100)), (Some(41), Some(100))]
    );
}
