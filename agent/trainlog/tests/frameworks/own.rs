//! Loops that people write themselves, and what looks like one.

use super::check;

#[test]
fn prints_of_ones_own() {
    check(
        "epoch 1 loss 0.93 acc 0.51\nepoch 2 loss 0.71 acc 0.62\n",
        "2/2 epoch 2 loss 0.71",
    );
    check(
        "Epoch 1/30 | Loss Train: 1.2345 | Loss Val: 1.1234 | Acc: 45.67%\nEpoch 2/30 | Loss Train: 1.1000 | Loss Val: 1.0500 | Acc: 47.00%\n",
        "2/2 epoch 2 loss 1.1000",
    );
    check(
        "Epoch [3/10], Step [100/600], Loss: 0.5123\nEpoch [3/10], Step [200/600], Loss: 0.4800\n",
        "2/2 steps 100..200 of 600 epoch 3 loss 0.4800",
    );
    check(
        "step=100 loss=2.5 lr=3e-4 tokens_per_s=15.2K time_per_step=0.51\n",
        "1/1 steps 100..100 loss 2.5 lr 3e-4 15.2K tokens/s",
    );
    check(
        "{\"step\": 40, \"loss\": 2.25, \"learning_rate\": 3e-05, \"tokens_per_second\": 1200.5}\n{\"step\": 41, \"loss\": 2.20, \"learning_rate\": 3e-05, \"tokens_per_second\": 1210.0}\n",
        "2/2 steps 40..41 loss 2.20 lr 3e-05 1210.0 tokens/s",
    );
    check(
        "2025-01-01 10:00:00 INFO train.py:88 global step 1,200 of many: loss=tensor(0.75, device='cuda:0') (eta 2h 5m)\n",
        "1/1 steps 1200..1200 loss 0.75 eta 2h 5m",
    );
    check("loss: 0.91\nloss: 0.85\n", "2/2 loss 0.85");
    // A time that only grows is that of all steps so far.
    let clock: String = (1..8)
        .map(|n| {
            format!(
                "Epoch: [ 0/20] Iter [ {n}0/148] || Time: {n}.0{n} sec || lr: 0.01 || Loss: 2.{n}\n"
            )
        })
        .collect();
    check(&clock, "7/7 steps 10..70 of 148 epoch 0 loss 2.7 lr 0.01");
    // Losses that are the same by chance are of two batches; those of two ranks follow each other.
    check(
        "Epoch 2 - batch loss: 0.0041\nEpoch 2 - batch loss: 0.0038\nEpoch 2 - batch loss: 0.0041\n",
        "3/3 epoch 2 loss 0.0041",
    );
    check(
        "epoch 2 loss: 0.51\nepoch 2 loss: 0.51\nepoch 3 loss: 0.47\nepoch 3 loss: 0.47\n",
        "2/4 epoch 3 loss 0.47",
    );
    check(
        "it 200: loss 3.1, grad_norm 0.8, 310ms/step, 105,000 tok/s, eta 1:02:03\n",
        "1/1 steps 200..200 loss 3.1 105000 tokens/s eta 1:02:03",
    );
    // Each epoch starts again.
    check(
        "Epoch 1\n[ 50/100] loss=2.0 lr=0.1\n[100/100] loss=1.9 lr=0.1\nEpoch 2\n[ 50/100] loss=1.8 lr=0.1\n",
        "3/3 steps 50..50 of 100 epoch 2 loss 1.8 lr 0.1",
    );
    // Tables with a heading: fastai, skorch.
    check(
        "epoch     train_loss  valid_loss  accuracy  time    \n0         0.512       0.498       0.81      00:31     \n1         0.412       0.450       0.85      00:30     \ndone 5\nloss: 9.0\n",
        "2/2 epoch 1 loss 0.412",
    );
    check(
        "  epoch    train_loss    valid_acc    valid_loss     dur\n-------  ------------  -----------  ------------  ------\n      1        \x1b[36m0.6868\x1b[0m       \x1b[32m0.6000\x1b[0m        \x1b[35m0.6740\x1b[0m  0.0326\n      2        0.6706       0.5852        0.6680  0.0319\n",
        "2/2 epoch 2 loss 0.6706",
    );
    check(
        "[0/5][0/1583]\tLoss_D: 1.5 Loss_G: 2.5 D(x): 0.5\n[0/5][50/1583]\tLoss_D: 1.4 Loss_G: 2.4 D(x): 0.5\n",
        "2/2 steps 0..50 of 1583 epoch 0 loss 1.4",
    );
    check(
        "Epoch 0:   5%|5         | 10/200 [00:10<03:10,  1.00it/s]epoch 0 step 10 loss 2.25\n",
        "1/1 steps 10..10 epoch 0 loss 2.25",
    );
    check(
        "12:00:01: Epoch 4 \n12:01:01: train_loss -0.2111 \n12:01:01: val_loss -0.3111 \n12:01:02: Epoch 5 \n12:02:01: train_loss -0.4111 \n",
        "2/2 epoch 5 loss -0.4111",
    );
    check(
        "Epoch[0] Batch [20]\tSpeed: 12.39 samples/sec\tTrain-Acc=0.45\nEpoch[0] Time cost=61.1\n",
        "1/1 steps 20..20 epoch 0 12.39 samples/s",
    );
    // Nor do the words of a model change the record above them.
    check(
        "step 5: loss 0.31, lr 1e-6\nAnswer: the time remaining: 14 hours, so 3 hours a day.\n",
        "1/1 steps 5..5 loss 0.31 lr 1e-6",
    );
    // What is no record: settings, prose, names of parameters.
    check(
        "batch_size=32, lr=0.001, epochs=10\nNum Epochs = 3\n  Total optimization steps = 1,200\nnumber of parameters: 124.44M\nThe loss 3 years ago was 7\nloss_scale: 65536\nsaving checkpoint at step 500\n",
        "0/0",
    );
    check("", "0/0");
}

#[test]
fn positions_and_losses_in_other_words() {
    // MiniMind: the position in round brackets behind the epoch in square ones.
    check(
        "Epoch:[1/1](100/4292), loss: 0.6838, logits_loss: 0.6838, aux_loss: 0.0000, lr: 0.00000030, epoch_time: 5.0min\n\
         Epoch:[1/1](200/4292), loss: 0.5793, logits_loss: 0.5793, aux_loss: 0.0000, lr: 0.00000020, epoch_time: 5.0min\n",
        "2/2 steps 100..200 of 4292 epoch 1 loss 0.5793 lr 0.00000020",
    );
    // The number glued to its name, behind the place in the program.
    check(
        "2026-02-01 10:00:00.290 | INFO     | __main__:<module>:8 - epoch1/10:\n\
         2026-02-01 10:00:00.292 | INFO     | __main__:<module>:9 - train_loss:22.5\n\
         2026-02-01 10:00:01.290 | INFO     | base:train_epochs:81 - epoch2/10:\n\
         2026-02-01 10:00:01.292 | INFO     | base:train_epochs:82 - train_loss:12.5\n",
        "2/2 epoch 2 loss 12.5",
    );
    check(
        "current step: 17407th step\nbatch loss:0.25\ncurrent step: 17408th step\nbatch loss:0.125\n",
        "2/2 steps 17407..17408 loss 0.125",
    );
    // A loss of one letter; layers have no fraction.
    check(
        "config: L=12 D=768 steps=1000\n\
         [ep 0 step     0 t=      6s vram= 7181MB] L=0.1089  D=0.1029  PSNR= 9.88\n\
         [ep 0 step    50 t=     49s vram= 7298MB] L=0.0353  D=0.0284  PSNR=15.47\n",
        "2/2 steps 0..50 epoch 0 loss 0.0353",
    );
    check(
        "step 10: loss = 2.0 (801.5 samples per second)\nstep 20: loss = 1.9 (812.5 samples per second)\n",
        "2/2 steps 10..20 loss 1.9 812.5 samples/s",
    );
    check(
        "[INFO | main.py:45] 2026-02-01 22:59:09,731: [Epoch    1] Loss: 1.728 Acc: 44.000%\n\
         [INFO | main.py:48] 2026-02-01 22:59:09,731: Current learning rate is: 0.1\n",
        "1/1 epoch 1 loss 1.728 lr 0.1",
    );
    // Its time, learning rate and parts on lines of their own.
    check(
        "Timer: 0.6685\nepoch:0 || iter:10 || Loss:5.5\n->> conf loss:1.5 || loc loss:1.25\n->>lr:0.0005\n\
         Saving state, iter: 15\n\
         Timer: 0.6750\nepoch:0 || iter:20 || Loss:5.25\n->> conf loss:1.25 || loc loss:1.125\n->>lr:0.0004\n",
        "2/2 steps 10..20 epoch 0 loss 5.25 lr 0.0004 0.6750 s/step",
    );
    // In Chinese.
    check(
        "2026-02-01 10:00:00,000 - 第 1/50 轮, 训练损失: 0.75, 验证损失: 0.5, 学习率: 0.001\n\
         2026-02-01 10:01:00,000 - 第 2/50 轮, 训练损失：0.625, 验证损失：0.5, 学习率：0.0005\n\
         2026-02-01 10:02:00,000 - 最佳验证损失: 0.5\n\
         2026-02-01 10:02:01,000 - 最优模型 (Epoch 9) | 验证集损失: 0.5 | 已保存为: best_epoch_009.pth\n",
        "2/2 epoch 2 loss 0.625 lr 0.0005",
    );
    // What it cost in seconds is no loss.
    check(
        "04-06 21:48:08, Epoch 1 Train, reg:0.1462, stage1:0.1552, mae:10.60, mse:30.99, Cost: 672.8 sec\n\
         04-06 21:58:08, Epoch 1 Val, MAE: 15.67, MSE: 65.43 Cost 208.2 sec\n\
         04-06 22:48:08, Epoch 2 Train, reg:0.1456, stage1:0.1506, mae:9.11, mse:28.05, Cost: 673.7 sec\n",
        "2/2 epoch 2",
    );
    // The mean of an epoch below the losses of its batches.
    check(
        "INFO - Epoch 1 - Batch loss: 0.0012\nINFO - Epoch 1 - Batch loss: 0.0024\nINFO - Epoch 1 - Average Train Loss: 0.0018\n",
        "2/2 epoch 1 loss 0.0024",
    );
    // Measured values where a bar has its name; a bar without its drawing, as copied from a notebook.
    check(
        "  0%|          | 0/20000 [00:00<?, ?it/s]\rd: -3.5;gen: -0.2:   0%|          | 1/20000 [00:31<3:20:05,  1.62it/s]\rd: -2.5;gen: -0.1:   0%|          | 2/20000 [00:32<3:20:03,  1.62it/s]\r",
        "0/0 bar 3 steps 0..2 of 20000 1.62 it/s eta 3:20:03",
    );
    check(
        "Epoch 39: 2%\n100/4975 [00:42<08:30, 9.52it/s, v_num=1, train_loss=1.920]\n\
         Epoch 39: 4%\n200/4975 [00:52<08:00, 9.52it/s, v_num=1, train_loss=1.820]\n",
        "2/2 steps 100..200 of 4975 epoch 39 loss 1.820 9.52 it/s eta 08:00",
    );
}

#[test]
fn what_is_saved_loaded_and_prepared_is_no_record() {
    check(
        "Saving checkpoint epoch3 at step500\nSaved state to out/step1000\nLoaded checkpoint 'x/epoch12/step300' (epoch 12, step 300)\n",
        "0/0",
    );
    check(
        "Filter (num_proc=4):  10%|#         | 10/100 [00:01<00:09, 9.9it/s]\n\
         Adding EOS (num_proc=4):  10%|#         | 10/100 [00:01<00:09, 9.9it/s]\n\
         Building index: 10%|#         | 10/100 [00:01<00:09, 9.9it/s]\n\
         model-00001-of-00004.safetensors: 100%|##########| 4.98G/4.98G [00:21<00:00, 231MB/s]\n",
        "0/0",
    );
    check(
        "  learning_rate ................................... 0.0003\n  train_iters ..................................... 500000\n\
         epochs: 50\nlr: 0.001\nbatch_size: 32\nmodel parameters: 124.4M, vocab: 50304, context 1024\n",
        "0/0",
    );
}
