//! What looks like a record of a training and is none: settings, other work, tables of something else.

use super::check;

#[test]
fn what_a_program_is_started_with_is_no_record() {
    check(
        "+ python train.py --epochs 10 --steps 1000 --lr 0.1\n",
        "0/0",
    );
    check(
        "+ python train.py --epochs 10 --lr 0.1\nEpoch 1 loss: 2.5\n",
        "1/1 epoch 1 loss 2.5",
    );
    // A dump of settings, as lines and as a table.
    check("steps: 1000\nlr: 0.1\nschedule: cosine\n", "0/0");
    check("| steps | 1000 |\n| learning_rate | 0.1 |\n", "0/0");
    // How a model lies on its GPUs.
    check(
        "tp 2 ep 8, epochs to come\nTP=2, EP=8, iterations to come\nstep 10 loss 2.5\n",
        "1/1 steps 10..10 loss 2.5",
    );
    check("Epoch 1 trainable: 100, frozen: 20, heads: 4\n", "0/0");
}

#[test]
fn other_work_and_its_speed_are_not_the_trainings() {
    check(
        "step 10 loss 2.5 | data loading: 5120.5 samples/s | compute: 801.5 samples/s\n",
        "1/1 steps 10..10 loss 2.5 801.5 samples/s",
    );
    check(
        "step 10: loss 2.5, lr 0.1\n\
         Avg prompt throughput: 1200.5 tokens/s, Avg generation throughput: 512.5 tokens/s, Running: 3 reqs\n",
        "1/1 steps 10..10 loss 2.5 lr 0.1",
    );
    check("Tokenizing step 10/100: 5000.5 tokens/s\n", "0/0");
    check(
        "   ━━━━━━━━━━━━━━━━━━━━ 1.2/3.4 MB 5.6 MB/s eta 0:00:01\n   ━━━━━━━━━━━━━━━━━━━━ 3.4/3.4 MB 5.6 MB/s eta 0:00:00\n",
        "0/0",
    );
    check(
        "size: 1.5 GB:  10%|#         | 10/100 [00:01<00:09, 9.9it/s]\n",
        "0/0",
    );
    check(
        "Rendering progress:  50%|#####     | 20/40 [00:01<00:01, 15.58it/s]\n",
        "0/0",
    );
    // A state that is saved is that of the epoch before.
    check(
        "Epoch 4/10\nstep 10/20 loss 2.5\nSaving state: epoch 3\nstep 20/20 loss 2.25\n",
        "2/2 steps 10..20 of 20 epoch 4 loss 2.25",
    );
}

#[test]
fn values_of_other_things_are_no_losses() {
    check("Epoch 3 cost: $1.25\nEpoch 4 cost 12.5 min\n", "0/0");
    check("iter 3: text l 0.5, font l: 2.5\n", "0/0");
    check(
        "Loss(\tCrossEntropy(  ignore_idx=-1  label_smoothing=0.1 loss_wt=1.0)\n\tAugmenting(  alpha=0.0015 loss_wt=1.0)\n)\n",
        "0/0",
    );
    // Summaries, and nothing that counts them.
    check("train loss\tval loss\n0.5\t0.6\n0.4\t0.5\n", "0/0");
    check(
        "train loss\tdice loss\tval loss\n0.5\t0.6\t0.7\n0.4\t0.5\t0.6\n",
        "0/0",
    );
    check(
        "total loss\tscore loss\tborder loss\n46.5\t0.25\t0.175\n40.5\t0.24\t0.165\n",
        "2/2 loss 40.5",
    );
    // Signs around a loss do not make it a place in a program.
    check("epoch:3:loss:0.5 - acc:0.9\n", "1/1 epoch 3 loss 0.5");
    // Steps in Chinese are no epochs.
    check(
        "第 1 轮, 第 100 步, 损失: 0.5\n第 1 轮, 第 200 步, 损失: 0.25\n",
        "2/2 steps 100..200 epoch 1 loss 0.25",
    );
}
