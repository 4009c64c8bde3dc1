//! Lines with abbreviations, ticks and rows with units.

use super::check;

#[test]
fn speech_and_translation() {
    // Marian: its time is that of all updates since the line before.
    check(
        "[2026-03-01 10:00:00] [training] Training started\n\
         [2026-03-01 10:00:51] Ep. 1 : Up. 1000 : Sen. 95,231 : Cost 5.21483231 * 1,023,117 @ 4,120 after 9,117,204 : Time 51.20s : 19982.75 words/s : gNorm 1.2031 : L.r. 6.2500e-05\n\
         [2026-03-01 10:01:43] Ep. 1 : Up. 2000 : Sen. 190,118 : Cost 4.71020412 * 1,031,300 @ 3,988 after 10,148,504 : Time 51.90s : 19870.90 words/s : gNorm 0.9817 : L.r. 1.2500e-04\n",
        "2/2 steps 1000..2000 epoch 1 loss 4.71020412 lr 1.2500e-04 19870.90 words/s",
    );
    // WeNet, as it was and as it is.
    check(
        "2026-03-01 10:00:00,123 DEBUG TRAIN Batch 0/100 loss 103.216 loss_att 90.114 loss_ctc 133.806 lr 0.00000800 rank 0\n\
         2026-03-01 10:00:40,551 DEBUG TRAIN Batch 0/200 loss 88.402 loss_att 77.910 loss_ctc 112.883 lr 0.00001600 rank 0\n",
        "2/2 steps 100..200 epoch 0 loss 88.402 lr 0.00001600",
    );
}

#[test]
fn images_from_noise_and_scenes_from_views() {
    // StyleGAN has no loss in its log; a tick is a line of it.
    check(
        "tick 0     kimg 0.0      time 21s          sec/tick 4.1     sec/kimg 1021.50 maintenance 16.7   cpumem 4.61   gpumem 21.10  reserved 22.30  augment 0.000\n\
         tick 1     kimg 4.0      time 2m 03s       sec/tick 96.2    sec/kimg 24.05   maintenance 5.3    cpumem 4.75   gpumem 11.02  reserved 21.55  augment 0.005\n\
         tick 2     kimg 8.0      time 3m 40s       sec/tick 96.7    sec/kimg 24.17   maintenance 0.2    cpumem 4.75   gpumem 11.02  reserved 21.55  augment 0.009\n",
        "3/3 steps 0..2 96.7 s/step",
    );
    // nerfstudio: a table without a loss, each number with its unit.
    check(
        "Step (% Done)       Train Iter (time)    ETA (time)           Train Rays / Sec\n\
         -----------------------------------------------------------------------------------\n\
         0 (0.00%)           1 s, 301.415 ms      10 h, 50 m, 44 s     3.16 K\n\
         10 (0.03%)          31.120 ms            15 m, 33 s           132.41 K\n\
         20 (0.07%)          30.804 ms            15 m, 23 s           133.77 K\n\
         ----------------------------------------------------------------------------------------------------\n",
        "2/2 steps 10..20 30.804 ms/step",
    );
}

#[test]
fn tables_of_names_and_of_losses_alone() {
    // Spinning Up begins each table with its epoch; OpenAI's baselines.
    check(
        "---------------------------------------\n|             Epoch |               0 |\n|      AverageEpRet |            22.5 |\n| TotalEnvInteracts |           4000 |\n|            LossPi |         -0.0125 |\n|             LossV |             311 |\n---------------------------------------\n\
         ---------------------------------------\n|             Epoch |               1 |\n|      AverageEpRet |            32.5 |\n| TotalEnvInteracts |           8000 |\n|            LossPi |         -0.0250 |\n|             LossV |             301 |\n---------------------------------------\n",
        "2/2 steps 4000..8000 epoch 1 loss -0.0250",
    );
    check(
        "| loss/policy_loss        | -0.0125  |\n| loss/value_loss         | 0.25     |\n| misc/total_timesteps    | 2048     |\n| fps                     | 1211     |\n",
        "1/1 steps 2048..2048 loss -0.0125 1211 frames/s",
    );
    // Losses in columns, and nothing that counts them.
    check(
        "total loss\tscore loss\tborder loss\t\n46.5\t0.25\t0.175\t\n40.5\t0.24\t0.165\t\n",
        "2/2 loss 40.5",
    );
    // Scenic.
    check(
        "I0201 10:00:00.000000 140 train_utils.py:200] step 100/1000, train loss 2.5, 12.5 img/sec/core\n",
        "1/1 steps 100..100 of 1000 loss 2.5 12.5 images/s",
    );
}
