//! Values that stand beside their record: on the line above or below it, in a list, in brackets, behind a rule.

use super::check;

#[test]
fn a_list_of_a_step_and_its_learning_rate() {
    // RVC, and So-VITS with its losses in the list.
    check(
        "INFO:voice:====> Epoch: 1 [2026-02-01 08:00:00] | (0:10:11.300000)\n\
         INFO:voice:Train Epoch: 2 [1%]\n\
         INFO:voice:[300, 9.875e-05]\n\
         INFO:voice:loss_disc=3.9, loss_gen=3.1, loss_fm=10.2,loss_mel=21.5, loss_kl=1.3\n\
         INFO:voice:====> Epoch: 2 [2026-02-01 08:11:00] | (0:10:12.300000)\n\
         INFO:voice:Train Epoch: 3 [2%]\n\
         INFO:voice:[600, 9.75e-05]\n\
         INFO:voice:loss_disc=3.7, loss_gen=3.2, loss_fm=10.1,loss_mel=20.5, loss_kl=1.2\n",
        "2/2 steps 300..600 epoch 3 loss 3.7 lr 9.75e-05",
    );
    check(
        "INFO:voice:Train Epoch: 7 [70%]\n\
         INFO:voice:[2.5, 2.75, 11.5, 20.25, 1.5, 4200, 0.0001875]\n\
         INFO:voice:====> Epoch: 7\n\
         INFO:voice:Train Epoch: 8 [5%]\n\
         INFO:voice:[2.25, 2.5, 11.25, 20.0, 1.25, 4400, 0.0001865]\n",
        "2/2 steps 4200..4400 epoch 8 loss 2.25 lr 0.0001865",
    );
    // Lists of settings are none.
    check(
        "milestones: [30, 0.001]\n[200, 0.0001]\nbetas [0.9, 0.0001]\nINFO:setup:sizes [12, 24]\n",
        "0/0",
    );
}

#[test]
fn a_learning_rate_on_a_line_of_its_own() {
    // nnU-Net tells it before the loss, its first version after it.
    check(
        "2026-02-01 09:00:00.100000: Epoch 0\n\
         2026-02-01 09:00:00.110000: Current learning rate: 0.02\n\
         2026-02-01 09:02:00.100000: train_loss 0.5\n\
         2026-02-01 09:02:00.110000: val_loss 0.25\n\
         2026-02-01 09:02:00.120000: Epoch time: 120.5 s\n\
         2026-02-01 09:02:01.100000: Epoch 1\n\
         2026-02-01 09:02:01.110000: Current learning rate: 0.0195\n\
         2026-02-01 09:04:00.100000: train_loss 0.375\n\
         2026-02-01 09:04:00.110000: val_loss 0.125\n",
        "2/2 epoch 1 loss 0.375 lr 0.0195",
    );
    check(
        "2026-02-01 09:00:00.100000: \nepoch:  4\n\
         2026-02-01 09:02:00.100000: train loss : -0.5\n\
         2026-02-01 09:02:10.100000: validation loss: -0.25\n\
         2026-02-01 09:02:11.100000: lr: 0.0095\n\
         2026-02-01 09:02:11.200000: This epoch took 130.5 s\n",
        "1/1 epoch 4 loss -0.5 lr 0.0095",
    );
    // The trainer of Coqui for several optimizers.
    check(
        "   --> STEP: 10/300 -- GLOBAL_STEP: 910\n     | > loss_0: 2.5  (2.6)\n     | > current_lr_0: 0.0002 \n     | > step_time: 0.5  (0.6)\n\n\
         \x20  --> STEP: 35/300 -- GLOBAL_STEP: 935\n     | > loss_0: 2.25  (2.5)\n     | > current_lr_0: 0.00015 \n     | > step_time: 0.45  (0.6)\n",
        "2/2 steps 10..35 of 300 loss 2.25 lr 0.00015 0.45 s/step",
    );
}

#[test]
fn names_in_brackets_and_positions_before_a_rule() {
    check(
        "2026-02-01 | INFO | base:train:256 - [R0] | E7 | [Loss] 0.75 | [exp] ./exp | [step]  1100 | [time] 0.4m (~5h) |[best] 0\n\
         2026-02-01 | INFO | base:train:256 - [R0] | E8 | [Loss] 0.5 | [exp] ./exp | [step]  1200 | [time] 0.4m (~5h) |[best] 0\n",
        "2/2 steps 1100..1200 loss 0.5",
    );
    check(
        "90 | loss 4.5 | lr 9.0e-04 | 7350.5ms\nstep 100: train loss 4.4, val loss 4.6\n100 | loss 4.25 | lr 8.5e-04 | 7351.5ms\n",
        "2/2 steps 90..100 loss 4.25 lr 8.5e-04 7351.5 ms/step",
    );
    // Darknet, new and old.
    check(
        " (next mAP calculation at 1200 iterations) \n\
         v3 (iou loss, Normalizer: (iou: 0.07) Region 133 Avg (IOU: 0.42), count: 34, class_loss = 37.5, iou_loss = 28.25, total_loss = 65.75 \n \
         1180: 3.25, 3.125 avg loss, 0.01 rate, 1.4 seconds, 75520 images, 30.8 hours left\n\
         Loaded: 0.7 seconds - performance bottleneck on CPU or Disk HDD/SSD\n \
         1181: 3.2, 3.0 avg loss, 0.01 rate, 2.5 seconds, 75584 images, 30.5 hours left\n",
        "2/2 steps 1180..1181 loss 3.0 lr 0.01 2.5 s/step eta 30.5 hours",
    );
    check(
        "901: 0.25, 0.0625 avg, 0.001 rate, 3.8 seconds, 57664 images\nLoaded: 0.000000 seconds\n",
        "1/1 steps 901..901 loss 0.0625 lr 0.001 3.8 s/step",
    );
    // YOLACT, whose whole loss is only called `T`.
    check(
        "[  0]     520 || B: 3.5 | C: 3.0 | M: 4.5 | S: 1.0 | T: 12.0 || ETA: 2 days, 4:31:22 || timer: 1.25\n\
         [  0]     530 || B: 3.4 | C: 2.9 | M: 4.4 | S: 0.9 | T: 11.6 || ETA: 2 days, 4:30:06 || timer: 1.5\n",
        "2/2 steps 520..530 epoch 0 1.5 s/step eta 2 days, 4:30:06",
    );
}

#[test]
fn more_counters_of_steps_and_speeds() {
    // FunASR, every rank.
    check(
        "[2026-02-01 10:00:07,255][root][INFO] - train, rank: 0, epoch: 0/50, data_slice: 0/5, step_in_slice: 50/810, step_in_epoch: 50, total step: 50, (loss_avg_rank: 0.9), (loss_avg_slice: 0.7), (lr: 5.5e-04), [('loss_att', 0.8), ('loss', 0.9)], {'data_load': '0.000', 'forward_time': '0.294', 'total_time': '0.673'}\n\
         [2026-02-01 10:00:47,255][root][INFO] - train, rank: 0, epoch: 0/50, data_slice: 0/5, step_in_slice: 100/810, step_in_epoch: 100, total step: 100, (loss_avg_rank: 0.8), (loss_avg_slice: 0.7), (lr: 5.6e-04), [('loss_att', 0.7), ('loss', 0.8)], {'data_load': '0.000', 'forward_time': '0.294', 'total_time': '0.673'}\n",
        "2/2 steps 50..100 epoch 0 loss 0.8 lr 5.6e-04",
    );
    // Icefall of late.
    check(
        "2026-02-01 10:00:39,748 INFO [train.py:731] Epoch 1, batch 49, global_batch_idx: 50, batch size: 25, loss[loss=0.07, over 17994.00 frames. ], tot_loss[loss=0.08, over 778288.75 frames. ], cur_lr: 1.00e-04\n",
        "1/1 steps 50..50 epoch 1 loss 0.07 lr 1.00e-04",
    );
    // Paddle without its unit.
    check(
        "[2026/02/01 11:11:26] root INFO: epoch: [0/100], iter: 10, lr: 0.001, acc: 0.5, loss: 0.75, reader_cost: 6.0 s, batch_cost: 6.3 s, samples: 5632, ips: 89.5\n",
        "1/1 steps 10..10 epoch 0 loss 0.75 lr 0.001 89.5 samples/s",
    );
    // MMF: a duration in parts is no speed.
    check(
        "2026-02-01T14:58:01 | mmf.trainers: progress: 2200/9000, train/total_loss: 0.5, max mem: 4378.0, epoch: 2, num_updates: 2200, max_updates: 9000, lr: 0.00001, ups: 0.72, time: 02m 16s 008ms, eta: 08h 09m 13s 300ms\n",
        "1/1 steps 2200..2200 of 9000 epoch 2 loss 0.5 lr 0.00001 eta 08h 09m 13s 300ms",
    );
    // Unsloth tells the time so far with each record.
    check(
        "{'loss': '2.5', 'grad_norm': '2.5', 'learning_rate': '0.0002', 'epoch': '0.1', 'train_runtime': '110.7', 'train_tokens_per_second': '2500'}\n\
         {'loss': '2.25', 'grad_norm': '2.4', 'learning_rate': '0.0001', 'epoch': '0.2', 'train_runtime': '112.2', 'train_tokens_per_second': '2600'}\n\
         {'train_runtime': '113.1', 'train_samples_per_second': '9.7', 'train_loss': '2.4', 'epoch': '0.2'}\n",
        "2/2 epoch 0.2 loss 2.25 lr 0.0001 2600 tokens/s",
    );
    // OpenRLHF draws its episodes.
    check(
        "Processed prompts: 100%|##########| 16/16 [00:12<00:00,  1.25it/s]\n\
         Episode [1/1]:  50%|#####     | 1/2 [03:32<00:19, 19.50s/it]\n\
         Processed prompts: 100%|##########| 16/16 [00:12<00:00,  1.25it/s]\n\
         Episode [1/1]: 100%|##########| 2/2 [03:51<00:00, 19.18s/it]\n",
        "0/0 bar 2 steps 1..2 of 2 19.18 s/it eta 00:00",
    );
}

#[test]
fn shapes_of_rivals_readers_and_notebooks() {
    // Rivals without a common loss.
    check(
        "(epoch: 2, iters: 50, time: 0.212, data: 0.004) D_X: 0.310 G_X: 0.402 cycle_X: 3.501 \n\
         (epoch: 2, iters: 60, time: 0.210, data: 0.003) D_X: 0.275 G_X: 0.511 cycle_X: 3.020 \n\
         saving the model at the end of epoch 2, iters 60\n",
        "2/2 steps 50..60 epoch 2 loss 0.275 0.210 s/step",
    );
    check("(epoch: 2, iters: 50) saved 3 images\n", "0/0");
    // A reader of texts counts three things.
    check(
        "Loaded 1/1 lines (1-1) of document data/a.lstmf\n\
         At iteration 90/100/101, Mean rms=3.2%, delta=11.5%, char train=40.1%, word train=80.2%, skip ratio=0.5%,  wrote checkpoint.\n\
         At iteration 170/200/203, mean rms=2.9%, delta=10.5%, BCER train=35.1%, BWER train=75%, skip ratio=0.5%,  New best BCER = 35.1 At iteration 90, stage 0, Eval Char error rate=39.5\n",
        "2/2 steps 90..170",
    );
    // Kaldi, with the log-likelihood that it maximises.
    check(
        "LOG (nnet3-train[5.5]:PrintStatsForThisPhase():nnet-training.cc:270) Average objective function for 'output' for minibatches 20-29 is -0.412 over 1280 frames.\n\
         LOG (nnet3-train[5.5]:PrintStatsForThisPhase():nnet-training.cc:270) Average objective function for 'output' for minibatches 30-39 is -0.398 over 1280 frames.\n\
         LOG (nnet3-train[5.5]:PrintTotalStats():nnet-training.cc:300) Overall average objective function for 'output' is -0.405 over 2560 frames.\n",
        "2/2 steps 29..39 loss -0.398",
    );
    // MXNet says since which batch.
    check(
        "INFO:root:Epoch[3] Batch [0-40]\tSpeed: 812.50 samples/sec\tcross-entropy=1.310\n\
         INFO:root:Epoch[3] Batch [40-80]\tSpeed: 815.10 samples/sec\tcross-entropy=1.290\n\
         INFO:root:Epoch[3] Validation-cross-entropy=1.5\n",
        "2/2 steps 40..80 epoch 3 loss 1.290 815.10 samples/s",
    );
    check(
        "[Epoch 4][Batch 99], Speed: 35.5 samples/sec, CrossEntropy=2.10e+00, SmoothL1=1.05e+00\n",
        "1/1 steps 99..99 epoch 4 loss 2.10e+00 35.5 samples/s",
    );
    // The HF Trainer in a notebook.
    check(
        "[ 12/240 01:30 < 28:30, 0.13 it/s, Epoch 0.20/4]\n",
        "0/0 bar 1 steps 12..12 of 240 epoch 0.20 0.13 it/s eta 28:30",
    );
    check(
        "[240/240 30:12, Epoch 4/4]\n",
        "0/0 bar 1 steps 240..240 of 240 epoch 4",
    );
    check("[1/22 19:59:55] starting\n", "0/0");
}

#[test]
fn values_behind_tabs_and_beside_means() {
    check(
        "Iteration: \t 4\nLoss:     \t 0.125\nMaxRew: \t -20.5\n-----\nIteration: \t 5\nLoss:     \t 0.115\n",
        "2/2 steps 4..5 loss 0.115",
    );
    check(
        "Epoch 7 | Iter 20 | Average Loss 1.250 | Current Loss 1.375 | 101.5 ms/batch\n",
        "1/1 steps 20..20 epoch 7 loss 1.375 101.5 ms/step",
    );
    // The epoch's own line tells the learning rate that the bar does not.
    check(
        "Going into epoch 2\n100%|#####| 80/80 [01:20<00:00,  1.00it/s, train_loss=0.5]\nepoch: 2, lr: 9.5e-04 - train loss: 5.00e-01 - valid loss: 6.00e-01\n",
        "1/1 steps 80..80 of 80 epoch 2 loss 0.5 lr 9.5e-04 1.00 it/s eta 00:00",
    );
    // The settings' is not the training's.
    check(
        "learning_rate = 1e-3\nepoch: 1 - train loss: 5.5 - note: 1\nepoch: 2 - train loss: 5.0 - note: 1\n100%|#####| 80/80 [01:20<00:00,  1.00it/s, train_loss=0.5]\n",
        "1/1 steps 80..80 of 80 loss 0.5 1.00 it/s eta 00:00",
    );
    // Which epoch it is, and how many there will be.
    check(
        "root INFO:     epoch_num : 500\n:  25%|##5  | 2/8 [00:21<01:15, 12.5s/it]\nEpoch num 2| train loss 0.375 \n",
        "1/1 bar 1 steps 2..2 of 8 epoch 2 loss 0.375 12.5 s/it eta 01:15",
    );
}
