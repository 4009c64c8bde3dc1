//! Short logs in the manner of many trainers, in our own words and numbers, and what there is to read in each. Whoever
//! adds a name or a shape adds its example here.
#![allow(clippy::unwrap_used, reason = "a test may hope")]

mod beside;
mod evaluations;
mod own;
mod positions;
mod strangers;
mod tables;

use std::fmt::Write as _;

use spotter_trainlog::{Reader, SeenKind, Summary};

/// Reads a log in one piece and in small ones; the summary on one line, without what is absent.
fn read(log: &[u8]) -> String {
    let summary = |size: usize| {
        let mut reader = Reader::default();
        for piece in log.chunks(size) {
            reader.feed(piece, &mut |_| {});
        }
        reader.end(&mut |_| {});
        reader.summary()
    };
    let whole = summary(log.len().max(1));
    assert_eq!(
        whole,
        summary(7),
        "in pieces: {}",
        String::from_utf8_lossy(log)
    );
    show(&whole)
}

fn show(summary: &Summary) -> String {
    let mut text = format!("{}/{}", summary.step_records, summary.raw_records);
    if let Some(bar) = summary.bar_updates {
        write!(text, " bar {bar}").unwrap();
    }
    if let (Some(first), Some(last)) = (summary.first_step, summary.last_step) {
        write!(text, " steps {first}..{last}").unwrap();
    }
    for (name, value) in [
        ("of", summary.total_steps),
        ("epoch", summary.last_epoch),
        ("loss", summary.last_loss),
        ("lr", summary.last_lr),
    ] {
        if let Some(value) = value {
            write!(text, " {name} {value}").unwrap();
        }
    }
    if let (Some(speed), Some(unit)) = (summary.last_throughput, summary.throughput_unit) {
        write!(text, " {speed} {}", unit.as_str()).unwrap();
    }
    if let Some(eta) = summary.last_eta {
        write!(text, " eta {eta}").unwrap();
    }
    if summary.failure_class.as_str() != "none" {
        write!(text, " {}", summary.failure_class).unwrap();
    }
    text
}

#[track_caller]
fn check(log: &str, expected: &str) {
    assert_eq!(read(log.as_bytes()), expected, "{log}");
}

#[test]
fn hugging_face_trainer_and_its_kin() {
    // A bar, a dictionary printed to its line, an evaluation with a bar of its own, and the summary.
    check(
        "Map: 100%|#####| 900/900 [00:01<00:00, 812.33 examples/s]\n\
         \r  0%|          | 0/40 [00:00<?, ?it/s]\
         \r 25%|##5       | 10/40 [00:20<01:00,  2.00s/it]\n\
         {'loss': 1.75, 'grad_norm': 0.9, 'learning_rate': 1.5e-05, 'epoch': 0.5}\n\
         \r  0%|          | 0/3 [00:00<?, ?it/s]\r 67%|######6   | 2/3 [00:01<00:00,  2.5it/s]\n\
         {'eval_loss': 1.9, 'eval_runtime': 1.1, 'eval_samples_per_second': 80.5, 'epoch': 0.5}\n\
         \r 50%|#####     | 20/40 [00:40<00:40,  2.01s/it]{'loss': 1.5, 'grad_norm': 0.8, 'learning_rate': 1e-05, 'epoch': 1.0}\n\
         {'train_runtime': 41.0, 'train_samples_per_second': 9.7, 'train_loss': 1.6, 'epoch': 1.0}\n",
        "2/2 bar 3 steps 0..20 of 40 epoch 1.0 loss 1.5 lr 1e-05 2.01 s/it eta 00:40",
    );
    // Numbers as strings, and every rank prints.
    check(
        "{'loss': '0.512', 'grad_norm': '1.1', 'learning_rate': '2e-4', 'epoch': '0.25'}\n\
         {'loss': '0.512', 'grad_norm': '1.1', 'learning_rate': '2e-4', 'epoch': '0.25'}\n\
         {'loss': '0.498', 'grad_norm': '1.0', 'learning_rate': '1e-4', 'epoch': '0.5'}\n\
         {'loss': '0.498', 'grad_norm': '1.0', 'learning_rate': '1e-4', 'epoch': '0.5'}\n",
        "2/4 epoch 0.5 loss 0.498 lr 1e-4",
    );
    // TRL: rewards and lengths around the loss.
    check(
        "{'loss': 0.0, 'grad_norm': 0.31, 'learning_rate': 9e-07, 'rewards/format': 0.5, 'reward': 1.25, 'kl': 0.002, 'completion_length': 210.5, 'epoch': 0.02}\n\
         {'loss': 0.0001, 'grad_norm': 0.29, 'learning_rate': 8e-07, 'rewards/format': 0.6, 'reward': 1.5, 'kl': 0.004, 'completion_length': 199.0, 'epoch': 0.04}\n",
        "2/2 epoch 0.04 loss 0.0001 lr 8e-07",
    );
    // LLaMA-Factory logs its records and a table of them at the end.
    check(
        "[INFO|callbacks.py:143] 2025-02-01 10:00:00,001 >> {'loss': 1.1032, 'learning_rate': 4.9e-05, 'epoch': 0.33, 'throughput': 1530.2}\n\
         ***** train metrics *****\n  epoch                    =        1.0\n  train_loss               =     1.0500\n  train_runtime            = 0:02:10.30\n",
        "1/1 epoch 0.33 loss 1.1032 lr 4.9e-05",
    );
    // The summary that Weights & Biases prints repeats everything.
    check(
        "{'loss': 2.0, 'learning_rate': 1e-4, 'epoch': 1.0}\nwandb: Run summary:\nwandb:   train/epoch 1\nwandb:    train/loss 2.0\nwandb: train/global_step 77\n",
        "1/1 epoch 1.0 loss 2.0 lr 1e-4",
    );
}

#[test]
fn step_lines_of_language_model_trainers() {
    // nanoGPT: the estimate is an evaluation.
    check(
        "step 0: train loss 10.8, val loss 10.9\niter 0: loss 10.85, time 9000.11ms, mfu -100.00%\niter 10: loss 9.2, time 250.50ms, mfu 30.10%\n",
        "2/2 steps 0..10 loss 9.2 250.50 ms/step",
    );
    // The same with nothing but estimates: then they are all there is.
    check(
        "step 0: train loss 4.20, val loss 4.21\nstep 500: train loss 2.10, val loss 2.20\n",
        "2/2 steps 0..500 loss 2.10",
    );
    // nanochat.
    check(
        "step 00010/01000 (1.00%) | loss: 6.012345 | lrm: 1.00 | dt: 500.10ms | tok/sec: 1,048,331 | mfu: 50.1 | total time: 0.08m\n\
         Step 00010 | Validation bpb: 1.2\n\
         step 00011/01000 (1.10%) | loss: 5.900000 | lrm: 1.00 | dt: 499.90ms | tok/sec: 1,048,900 | mfu: 50.2 | total time: 0.09m\n",
        "2/2 steps 10..11 of 1000 loss 5.900000 1048900 tokens/s",
    );
    // llm.c on a GPU, with its evaluations.
    check(
        "val loss 11.01\nstep    1/900 | loss 10.99 (+nanz)| norm 15.1 (+nanz)| lr 2.50e-06 | 310.20 ms | 45.1% bf16 MFU | 1690123 tok/s\n\
         step    2/900 | loss 10.80 (+nanz)| norm 14.8 (+nanz)| lr 5.00e-06 | 309.00 ms | 45.2% bf16 MFU | 1697001 tok/s\n",
        "2/2 steps 1..2 of 900 loss 10.80 lr 5.00e-06 1697001 tokens/s",
    );
    // Megatron-LM, with a validation and a record before the loss scale has settled.
    check(
        " [2025-01-05 10:00:00] iteration        1/    5000 | consumed samples:          512 | elapsed time per iteration (ms): 9100.5 | learning rate: 0.000E+00 | global batch size:   512 | loss scale: 4294967296.0 | number of skipped iterations:   1 | number of nan iterations:   0 |\n\
         \x20[2025-01-05 10:00:09] iteration       10/    5000 | consumed samples:         5120 | elapsed time per iteration (ms): 880.1 | throughput per GPU (TFLOP/s/GPU): 210.5 | learning rate: 3.000E-06 | global batch size:   512 | lm loss: 9.870000E+00 | loss scale: 1.0 | grad norm: 2.500 | number of skipped iterations:   0 | number of nan iterations:   0 |\n\
         validation loss at iteration 10 | lm loss value: 9.800000E+00 | lm loss PPL: 1.803374E+04 |\n",
        "2/2 steps 1..10 of 5000 loss 9.870000E+00 lr 3.000E-06 880.1 ms/step",
    );
    // torchtitan, coloured and with ranks.
    check(
        "[rank0]:[titan] 2025-03-01 09:00:00,000 - root - INFO - \x1b[31mstep: 10  \x1b[32mloss:  7.1000  \x1b[33mmemory: 40.10GiB(50.60%)  \x1b[34mtps: 9,100  \x1b[36mtflops: 300.10  \x1b[35mmfu: 30.0%\x1b[39m\n\
         [rank1]:[titan] 2025-03-01 09:00:00,000 - root - INFO - \x1b[31mstep: 10  \x1b[32mloss:  7.1000  \x1b[33mmemory: 40.10GiB(50.60%)  \x1b[34mtps: 9,099  \x1b[36mtflops: 300.10  \x1b[35mmfu: 30.0%\x1b[39m\n\
         [rank0]:[titan] 2025-03-01 09:01:00,000 - root - INFO - \x1b[31mvalidate step: 10  \x1b[32mloss:  7.0000\x1b[39m\n",
        "1/2 steps 10..10 loss 7.1000 9099 tokens/s",
    );
    // LitGPT.
    check(
        "Epoch 1 | iter 1 step 0 | loss train: 1.911, val: n/a | iter time: 812.31 ms\nEpoch 1 | iter 2 step 1 | loss train: 1.850, val: n/a | iter time: 540.72 ms (step)\n",
        "2/2 steps 1..2 epoch 1 loss 1.850 540.72 ms/step",
    );
    // MaxText.
    check(
        "completed step: 7, seconds: 6.051, TFLOP/s/device: 451.236, Tokens/s/device: 8123.462, total_weights: 393216, loss: 6.765\neval metrics after step: 7, loss=6.7, total_weights=1000\n",
        "1/1 steps 7..7 loss 6.765 8123.462 tokens/s/device",
    );
    // fairseq, both styles, with the mean of the epoch.
    check(
        "2024-01-01 10:00:00 | INFO | train_inner | epoch 001:    100 / 2000 loss=11.5, ppl=2896.3, wps=35001, ups=2.1, wpb=16000, bsz=512, num_updates=100, lr=1.25e-05, gnorm=2.1, train_wall=48, wall=60\n\
         2024-01-01 10:10:00 | INFO | train | epoch 001 | loss 10.9 | ppl 1910.1 | wps 34000 | ups 2 | num_updates 2000 | lr 0.00025 | gnorm 1.5 | train_wall 900 | wall 1000\n\
         2024-01-01 10:11:00 | INFO | valid | epoch 001 | valid on 'valid' subset | loss 10.1 | ppl 1097.5 | num_updates 2000\n",
        "1/1 steps 100..100 of 2000 epoch 001 loss 11.5 lr 1.25e-05 35001 words/s",
    );
    check(
        "2024-01-01 10:00:00 | INFO | train_inner | {\"epoch\": 2, \"update\": 1.5, \"loss\": \"8.125\", \"wps\": \"40123.4\", \"num_updates\": \"600\", \"lr\": \"7.5e-05\", \"gnorm\": \"1.9\"}\n\
         2024-01-01 10:00:30 | INFO | valid | {\"epoch\": 2, \"valid_loss\": \"8.0\", \"valid_num_updates\": \"600\"}\n",
        "1/1 steps 600..600 epoch 2 loss 8.125 lr 7.5e-05 40123.4 words/s",
    );
    // NeMo with its bar, and with its lines.
    check(
        "Epoch 0: :  40%|####      | 4/10 [00:20<00:30, v_num=0, reduced_train_loss=9.10, global_step=3.000, consumed_samples=1024.0, train_step_timing in s=4.900]\r\
         Epoch 0: :  50%|#####     | 5/10 [00:25<00:25, v_num=0, reduced_train_loss=8.90, global_step=4.000, consumed_samples=1280.0, train_step_timing in s=4.800]\r",
        "2/2 steps 4..5 of 10 epoch 0 loss 8.90 4.800 s/step eta 00:25",
    );
    check(
        "Training epoch 0, iteration 3/99 | lr: 4e-06 | global_batch_size: 128 | global_step: 3 | reduced_train_loss: 11.03 | train_step_timing in s: 12.64 | consumed_samples: 512\n",
        "1/1 steps 3..3 of 99 epoch 0 loss 11.03 lr 4e-06 12.64 s/step",
    );
    // DeepSpeed's own pipeline engine, and its engine below another trainer.
    check(
        "steps: 10 loss: 7.2500 iter time (s): 0.512 samples/sec: 62.500\nsteps: 20 loss: 6.9000 iter time (s): 0.500 samples/sec: 64.000\n",
        "2/2 steps 10..20 loss 6.9000 64.000 samples/s",
    );
    check(
        "[2025-01-01 10:00:00,000] [INFO] [logging.py:96:log_dist] [Rank 0] step=10, skipped=0, lr=[1e-05, 1e-05], mom=[(0.9, 0.95)]\n\
         [2025-01-01 10:00:00,001] [INFO] [timer.py:260:stop] epoch=0/micro_step=20/global_step=10, RunningAvgSamplesPerSec=33.5, CurrSamplesPerSec=34.1, MemAllocated=2GB\n",
        "2/2 steps 10..20 epoch 0 lr 1e-05 33.5 samples/s",
    );
    check(
        "Epoch: 0 | Step: 9 | PPO Epoch: 1 | Actor Loss: 0.021 | Critic Loss: 0.034 | Unsupervised Loss: 0.0\n[Rank 0] step=5, skipped=0, lr=[1e-05], mom=[(0.9, 0.95)]\n",
        "1/1 steps 9..9 epoch 0 loss 0.021",
    );
    // OLMo and Composer print a block under each position.
    check(
        "[2025-01-01 10:00:00] INFO     [olmo.train:816, rank=0] [step=1/7000]\n    train/CrossEntropyLoss=11.25\n    train/Perplexity=76,631\n    throughput/total_tokens=4,194,304\n    throughput/device/tokens_per_second=6,100\n\
         [2025-01-01 10:00:09] INFO     [olmo.train:816, rank=0] [step=2/7000]\n    train/CrossEntropyLoss=10.75\n    train/Perplexity=46,630\n    throughput/device/tokens_per_second=6,200\n",
        "2/2 steps 1..2 of 7000 loss 10.75 6200 tokens/s/device",
    );
    check(
        "[batch=1/40]:\n\t Train time/batch: 0\n\t Train LanguageCrossEntropy: 9.9\n\t Train loss/train/total: 9.9\n\t Train lr-DecoupledAdamW/group0: 0.0001\n\
         [batch=2/40]:\n\t Train time/batch: 1\n\t Train LanguageCrossEntropy: 9.5\n\t Train loss/train/total: 9.5\n\t Train lr-DecoupledAdamW/group0: 0.0002\n",
        "2/2 steps 1..2 of 40 loss 9.5 lr 0.0002",
    );
    check(
        "[epoch=0][batch=16/625]: wall_clock/train: 17.9\n[epoch=0][batch=16/625]: loss/train/total: 7.1292\n[epoch=0][batch=17/625]: loss/train/total: 7.1100\n",
        "2/2 steps 16..17 of 625 epoch 0 loss 7.1100",
    );
    // verl, below ray.
    check(
        "\x1b[36m(TaskRunner pid=99)\x1b[0m step:7 - actor/entropy_loss:0.4 - actor/pg_loss:-0.0125 - actor/kl_loss:0.0 - actor/lr:1e-06 - perf/throughput:np.float64(512.25) - timing_s/step:40.1\n",
        "1/1 steps 7..7 loss -0.0125 lr 1e-06 512.25 tokens/s/gpu",
    );
    // ESPnet counts ranges of batches.
    check(
        "[host] 2024-01-01 10:00:00,000 (trainer:754) INFO: 3epoch:train:1-200batch: iter_time=1.9e-04, forward_time=0.09, loss_ctc=60.1, loss_att=35.5, loss=42.9, backward_time=0.07, optim_step_time=0.01, optim0_lr0=2.5e-04, train_time=0.31\n",
        "1/1 steps 200..200 epoch 3 loss 42.9 lr 2.5e-04 0.31 s/step",
    );
}

#[test]
fn vision_trainers() {
    // The example of PyTorch for ImageNet, with its test.
    check(
        "Epoch: [4][  10/500]\tTime  0.301 ( 0.350)\tData  0.010 ( 0.020)\tLoss 3.1000e+00 (3.2500e+00)\tAcc@1  30.00 ( 28.10)\n\
         Test: [ 0/20]\tTime  1.001 ( 1.001)\tLoss 2.9000e+00 (2.9000e+00)\n",
        "1/1 steps 10..10 of 500 epoch 4 loss 3.1000e+00 0.301 s/step",
    );
    // The example of PyTorch for MNIST.
    check(
        "Train Epoch: 1 [640/60000 (1%)]\tLoss: 2.101000\nTrain Epoch: 1 [1280/60000 (2%)]\tLoss: 1.901000\n\nTest set: Average loss: 0.0512, Accuracy: 9830/10000 (98%)\n",
        "2/2 steps 640..1280 of 60000 epoch 1 loss 1.901000",
    );
    // timm.
    check(
        "Train: 0 [   0/312 (  0%)]  Loss: 6.95 (6.95)  Time: 4.511s,   56.75/s  (4.511s,   56.75/s)  LR: 1.000e-05  Data: 2.011 (2.011)\n\
         Train: 0 [  50/312 ( 16%)]  Loss: 6.90 (6.93)  Time: 0.311s,  823.15/s  (0.401s,  638.40/s)  LR: 1.000e-05  Data: 0.011 (0.051)\n\
         Test: [   0/39]  Time: 1.200 (1.200)  Loss:  6.8 ( 6.8)  Acc@1:  0.5\n",
        "2/2 steps 0..50 of 312 epoch 0 loss 6.90 lr 1.000e-05 823.15 samples/s",
    );
    // DETR and its many children.
    check(
        "Epoch: [2]  [ 10/63]  eta: 0:00:42  lr: 0.000100  class_error: 90.00  loss: 5.9923 (7.1036)  loss_ce: 0.6 (0.7)  time: 0.8021  data: 0.2264  max mem: 1188\nTest:  [0/9]  eta: 0:00:02  loss: 5.1 (5.1)  time: 0.2\n",
        "1/1 steps 10..10 of 63 epoch 2 loss 5.9923 lr 0.000100 0.8021 s/step eta 0:00:42",
    );
    // detectron2.
    check(
        "[01/05 10:00:00 d2.utils.events]:  eta: 1 day, 3:11:10  iter: 19  total_loss: 2.41  loss_cls: 1.2  loss_box_reg: 0.6  time: 0.4100  last_time: 0.4000  data_time: 0.0100  lr: 0.0002  max_mem: 5000M\n",
        "1/1 steps 19..19 loss 2.41 lr 0.0002 0.4100 s/iter eta 1 day, 3:11:10",
    );
    // MMDetection 2 and MMEngine, by epoch and by iteration.
    check(
        "2023-01-01 10:00:00,000 - mmdet - INFO - Epoch [1][50/7330]\tlr: 1.978e-03, eta: 12:11:10, time: 0.445, data_time: 0.05, memory: 3808, loss_rpn_cls: 0.5, loss_cls: 0.9, loss: 1.75\n",
        "1/1 steps 50..50 of 7330 epoch 1 loss 1.75 lr 1.978e-03 0.445 s/step eta 12:11:10",
    );
    check(
        "08/21 02:58:41 - mmengine - INFO - Epoch(train)  [2][10/25]  lr: 1.0000e-02  eta: 0:00:09  time: 0.3019  data_time: 0.0004  loss1: 0.8  loss: 1.7388\n08/21 02:58:50 - mmengine - INFO - Epoch(val) [2][10/10]    acc: 0.5  data_time: 0.01  time: 0.02\n",
        "1/1 steps 10..10 of 25 epoch 2 loss 1.7388 lr 1.0000e-02 0.3019 s/step eta 0:00:09",
    );
    check(
        "06/16 08:24:00 - mmengine - INFO - Iter(train) [2900/3000]  base_lr: 1.0e-03 lr: 9.3518e-03  eta: 0:00:57  time: 0.5780  data_time: 0.0083  memory: 3614  loss: 0.0365  decode.loss_ce: 0.0257\n06/16 08:24:30 - mmengine - INFO - Iter(val) [17/17]    mIoU: 51.1  time: 0.4\n",
        "1/1 steps 2900..2900 of 3000 loss 0.0365 lr 9.3518e-03 0.5780 s/iter eta 0:00:57",
    );
    // YOLO: columns before the bar, drawn by tqdm and by newer versions themselves.
    check(
        "      Epoch    GPU_mem   box_loss   cls_loss   dfl_loss  Instances       Size\n\
         \r      1/100      1.18G      1.287      3.734       1.21         17        640:  50%|#####     | 6/12 [00:02<00:02,  2.50it/s]\
         \r      1/100      1.18G      1.250      3.500       1.20         17        640: 100%|##########| 12/12 [00:04<00:00,  2.60it/s]\n\
         \r                 Class     Images  Instances      Box(P          R      mAP50  mAP50-95): 100%|##########| 2/2 [00:01<00:00,  1.9it/s]\n\
         \x20                  all         40         80       0.50       0.40       0.30       0.20\n",
        "2/2 steps 6..12 of 12 epoch 1 loss 1.250 2.60 it/s eta 00:00",
    );
    check(
        "\x1b[K      3/100      2.18G      1.187      2.734       1.11         17        640: 50% ━━━━━━────── 6/12 3.5it/s 1.7s<1.8s\r\x1b[K      3/100      2.18G      1.180      2.700       1.10         17        640: 100% ━━━━━━━━━━━━ 12/12 3.6it/s 3.5s\n",
        "2/2 steps 6..12 of 12 epoch 3 loss 1.180 3.6 it/s eta 1.8s",
    );
    // Keras 2 and 3, and its short form.
    check(
        "Epoch 2/5\n\r  1/100 [..............................] - ETA: 1:10 - loss: 0.9000\x08\x08\x08\r 50/100 [==============>...............] - ETA: 30s - loss: 0.7000\x08\x08\x08\r100/100 [==============================] - 61s 610ms/step - loss: 0.6500 - val_loss: 0.7100\n",
        "3/3 steps 1..100 of 100 epoch 2 loss 0.6500 610 ms/step eta 30s",
    );
    check(
        "Epoch 1/20\n\r\x1b[1m 10/458\x1b[0m \x1b[37m━━━━━━━━━━━━━━━━━━━━\x1b[0m \x1b[1m1:02\x1b[0m 140ms/step - accuracy: 0.3 - loss: 1.2000\r\x1b[1m458/458\x1b[0m \x1b[32m━━━━━━━━━━━━━━━━━━━━\x1b[0m\x1b[37m\x1b[0m \x1b[1m66s\x1b[0m 145ms/step - accuracy: 0.4828 - loss: 1.0008 - val_accuracy: 0.7673 - val_loss: 0.6263\n",
        "2/2 steps 10..458 of 458 epoch 1 loss 1.0008 145 ms/step",
    );
    check(
        "Epoch 1/5\n469/469 - 3s - loss: 0.2610 - accuracy: 0.92 - val_loss: 0.14 - 3s/epoch - 6ms/step\n",
        "1/1 steps 469..469 of 469 epoch 1 loss 0.2610 6 ms/step",
    );
    // kohya's scripts, diffusers.
    check(
        "\nepoch 1/10\n\rsteps:   1%|          | 30/3000 [00:15<25:00,  1.98it/s, avr_loss=0.0912]\rsteps:   1%|1         | 31/3000 [00:16<24:59,  1.98it/s, avr_loss=0.0905]",
        "2/2 steps 30..31 of 3000 epoch 1 loss 0.0905 1.98 it/s eta 24:59",
    );
    check(
        "Steps:   2%|2         | 20/1000 [00:10<08:10,  2.0it/s, lr=1e-6, step_loss=0.311]\r",
        "1/1 steps 20..20 of 1000 loss 0.311 lr 1e-6 2.0 it/s eta 08:10",
    );
    // Gaussian splatting.
    check(
        "Training progress:   1%|1         | 300/30000 [00:05<08:10, 60.5it/s, Loss=0.2103]\rTraining progress:   1%|1         | 310/30000 [00:05<08:09, 60.6it/s, Loss=0.2003]\r\n[ITER 7000] Evaluating test: L1 0.03 PSNR 25.1\n",
        "2/2 steps 300..310 of 30000 loss 0.2003 60.6 it/s eta 08:09",
    );
    // DiT, MXNet, GANs.
    check(
        "[2024-01-01 10:00:00] (step=0000100) Train Loss: 0.1512, Train Steps/Sec: 1.20\n[2024-01-01 10:01:23] (step=0000200) Train Loss: 0.1401, Train Steps/Sec: 1.21\n",
        "2/2 steps 100..200 loss 0.1401 1.21 steps/s",
    );
    check(
        "INFO:root:Epoch[0] Batch [20]\tSpeed: 1234.50 samples/sec\tcross-entropy-loss=2.300000\n",
        "1/1 steps 20..20 epoch 0 loss 2.300000 1234.50 samples/s",
    );
    check(
        "[Epoch 3/200] [Batch 40/938] [D loss: 0.512000] [G loss: 1.201000]\n",
        "1/1 steps 40..40 of 938 epoch 3 loss 0.512000",
    );
}

#[test]
fn lightning_torchtune_and_other_bars() {
    check(
        "\rSanity Checking DataLoader 0: 100%|##| 2/2 [00:00<00:00, 10.0it/s]\
         \rEpoch 0:   0%|          | 0/18 [00:00<?, ?it/s]\
         \rEpoch 0:  22%|##2       | 4/18 [00:17<01:02,  0.22it/s, v_num=3, train_loss_step=9.940]\
         \rValidation DataLoader 0:  50%|#####     | 1/2 [00:00<00:00, 10.0it/s]\
         \rEpoch 0:  28%|##7       | 5/18 [00:20<00:53,  0.25it/s, v_num=3, train_loss_step=9.850, train_loss_epoch=9.99]\n",
        "2/2 steps 4..5 of 18 epoch 0 loss 9.850 0.25 it/s eta 00:53",
    );
    check(
        "Epoch 0/23 ━━━━━━━━━━━━━━━━ 98/98 0:00:22 • 0:00:00 4.44it/s v_num: 0 train/loss: 1.559\nEpoch 1/23 ━━━━━━━━━━━━━━━━ 49/98 0:00:11 • 0:00:12 4.40it/s v_num: 0 train/loss: 1.201\n",
        "2/2 steps 98..49 of 98 epoch 1 loss 1.201 4.40 it/s eta 0:00:12",
    );
    check(
        "\r1|10|Loss: 1.5790324211120605:   1%|1         | 10/808 [00:15<19:00,  1.43s/it]\r1|11|Loss: 1.5500000000000000:   1%|1         | 11/808 [00:16<18:58,  1.43s/it]",
        "2/2 steps 10..11 of 808 epoch 1 loss 1.5500000000000000 1.43 s/it eta 18:58",
    );
    // A loop of one's own with a bar for each epoch, and the mean after it.
    check(
        "\rEpoch 1/3:  50%|#####     | 5/10 [00:01<00:01,  4.0it/s]\rEpoch 1/3: 100%|##########| 10/10 [00:02<00:00,  4.0it/s]\nEpoch 1: train loss 0.91 val loss 0.95\n",
        "1/1 bar 2 steps 5..10 of 10 epoch 1 loss 0.91 4.0 it/s eta 00:00",
    );
    check(
        "Training: 51it [00:20,  2.53it/s]\rTraining: 52it [00:21,  2.50it/s]",
        "0/0 bar 2 steps 51..52 2.50 it/s",
    );
}

#[test]
fn learning_by_trial_and_by_boosting() {
    check(
        "-----------------------------------------\n| rollout/                |             |\n|    ep_rew_mean          | 46.7        |\n| time/                   |             |\n|    fps                  | 460         |\n|    iterations           | 2           |\n|    time_elapsed         | 9           |\n|    total_timesteps      | 4096        |\n| train/                  |             |\n|    approx_kl            | 0.0224      |\n|    entropy_loss         | -0.804      |\n|    learning_rate        | 0.0003      |\n|    loss                 | 56.5        |\n|    value_loss           | 99.1        |\n-----------------------------------------\n\
         -----------------------------------------\n| time/                   |             |\n|    fps                  | 455         |\n|    iterations           | 3           |\n|    total_timesteps      | 6144        |\n| train/                  |             |\n|    learning_rate        | 0.0003      |\n|    loss                 | 40.5        |\n-----------------------------------------\n",
        "2/2 steps 4096..6144 loss 40.5 lr 0.0003 455 frames/s",
    );
    check(
        "################################################################################\n                      Learning iteration 119/12000                      \n\n                       Computation: 34814 steps/s (collection: 16.862s, learning 2.527s)\n               Value function loss: 22.3836\n                    Surrogate loss: -0.0080\n             Mean action noise std: 0.80\n                       Mean reward: 10.5\n                   Total timesteps: 98304\n                    Iteration time: 1.18s\n                               ETA: 119.3s\n\n",
        "1/1 steps 119..119 of 12000 loss -0.0080 34814 steps/s eta 119.3s",
    );
    // RLlib: the parts of a result, the position near its end; a number in brackets or a list is none of them.
    let result = |iteration: u32, reward: f64, loss: f64| {
        format!(
            "Result for PPO_CartPole-v1_1a2b3_00000:\n  agent_timesteps_total: {}\n  custom_metrics: {{}}\n  episode_len_mean: 23.5\n  episode_reward_max: 81.0\n  episode_reward_mean: {reward}\n  episodes_this_iter: 170\n  hist_stats:\n    episode_reward: [12.0, 31.0]\n  info:\n    learner:\n      default_policy:\n        learner_stats:\n          cur_lr: 5.0e-05\n          entropy: 0.66\n          policy_loss: -0.031\n          total_loss: {loss}\n          vf_loss: 8.7\n    num_env_steps_trained: 4000\n  iterations_since_restore: {iteration}\n  num_env_steps_sampled: {}\n  num_env_steps_sampled_throughput_per_sec: 1184.25\n  time_this_iter_s: 3.38\n  time_total_s: 3.38\n  training_iteration: {iteration}\n  trial_id: 1a2b3_00000\n\n",
            iteration * 4000,
            iteration * 4000,
        )
    };
    check(
        &format!("{}{}", result(1, 22.25, 8.75), result(2, 47.5, 7.5)),
        "2/2 steps 1..2 loss 7.5 lr 5.0e-05 1184.25 frames/s",
    );
    // As its `pretty_print` does, without a heading, and by a program that has no learner's figures.
    check(
        "episode_reward_mean: 22.25\nepisodes_this_iter: 170\ntime_this_iter_s: 3.5\ntraining_iteration: 7\n",
        "1/1 steps 7..7 3.5 s/iter",
    );
    // No result has begun: these are somebody else's words.
    check("total_loss: 3.5\ntraining_iteration: 7\n", "1/1 loss 3.5");
    check(
        "Episode 100\tAverage Score: 12.31\nEpisode 200\tAverage Score: 30.02\n",
        "2/2 steps 100..200",
    );
    check(
        "[0]\ttrain-logloss:0.61200\teval-logloss:0.62000\n[10]\ttrain-logloss:0.41000\teval-logloss:0.45000\n",
        "2/2 steps 0..10 loss 0.41000",
    );
    check(
        "[100]\ttraining's binary_logloss: 0.31\tvalid_1's binary_logloss: 0.35\n",
        "1/1 steps 100..100 loss 0.31",
    );
    check(
        "I0512 12:00:00.100000 140 logging_writer.py:48] [100] accuracy=0.51, learning_rate=0.1, loss=1.25, steps_per_second=3.4\n",
        "1/1 steps 100..100 loss 1.25 lr 0.1 3.4 steps/s",
    );
    // LeRobot counts thousands.
    check(
        "INFO 2025-01-01 10:00:00 ts/train.py:232 step:14K smpl:112K ep:250 epch:26.10 loss:0.041 grdn:0.9 lr:1.0e-05 updt_s:0.501 data_s:0.004\nINFO 2025-01-01 10:02:00 ts/train.py:232 step:15K smpl:120K ep:268 epch:27.90 loss:0.039 grdn:0.8 lr:1.0e-05 updt_s:0.499 data_s:0.003\n",
        "2/2 steps 14K..15K epoch 27.90 loss 0.039 lr 1.0e-05 0.499 s/step",
    );
}

#[test]
fn bars_of_an_evaluation_are_kept_apart_from_the_training() {
    for name in [
        "Val",
        "val",
        "Validation",
        "Validating",
        "Validation DataLoader 0",
        "Valid",
        "Eval",
        "Evaluating",
        "Evaluation",
        "Test",
        "Testing",
        "Testing DataLoader 0",
        "Dev",
        "Dev set",
        "dev",
        "Epoch 1 val",
        "Epoch 1/10 [Val]",
        "[Val] Epoch 1/10",
        "Epoch 1 (valid)",
        "Running validation",
    ] {
        let log = format!(
            "Epoch 1: 100%|##########| 10/10 [00:01<00:00, 9.0it/s, loss=2.0]\n\
             {name}: 100%|##########| 157/157 [00:02<00:00, 70.1it/s, loss=0.95]\n"
        );
        check(
            &log,
            "1/1 steps 10..10 of 10 epoch 1 loss 2.0 9.0 it/s eta 00:00",
        );
        let mut evaluated = Vec::new();
        Reader::default().feed(log.as_bytes(), &mut |seen| {
            if seen.kind == SeenKind::Evaluation {
                evaluated.push(seen.record.eval_loss.map(|loss| loss.value));
            }
        });
        assert_eq!(evaluated, [Some(0.95)], "{name}");
    }
    // What is named train is, whatever its metrics are called.
    check(
        "Train epoch 1: 100%|##########| 10/10 [00:01<00:00, 9.0it/s, loss=2.0, val_loss=2.1]\n",
        "1/1 steps 10..10 of 10 epoch 1 loss 2.0 9.0 it/s eta 00:00",
    );
}
