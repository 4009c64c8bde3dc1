//! Where records stand in a training: positions in brackets, dictionaries, tables, and lines that belong to
//! the record above.

use super::check;

#[test]
fn positions_in_brackets_of_many_kinds() {
    // I-JEPA and its kin: the epoch and the position in one bracket, the time of the step behind it.
    check(
        "INFO:root:[1,     0] loss: 0.901 masks: 34.3 38.7 [wd: 4.00e-02] [lr: 2.00e-04] [mem: 1.20e+04] (2219.1 ms)\n\
         INFO:root:[1,     0] grad_stats: [1.46e-02 2.35e-02] (1.19e-05, 3.95e+00)\n\
         INFO:root:[1,    10] loss: 0.701 masks: 34.3 38.7 [wd: 4.00e-02] [lr: 2.10e-04] [mem: 1.20e+04] (919.1 ms)\n\
         INFO:root:[1,    10] grad_stats: [1.46e-02 2.35e-02] (1.19e-05, 3.95e+00)\n\
         INFO:root:avg. loss 0.751\n",
        "2/2 steps 0..10 epoch 1 loss 0.701 lr 2.10e-04 919.1 ms/step",
    );
    check(
        "INFO:root:[2,   250/ 2562] - train_losses - Parent Class: 5.737 - Total Loss: 3.673 [wd: 5.00e-02] [lr: 7.67e-05] [mem: 6.49e+04] (1368.9 ms)\n\
         INFO:root:[2,   300/ 2562] - train_losses - Parent Class: 5.717 - Total Loss: 3.621 [wd: 5.00e-02] [lr: 7.71e-05] [mem: 6.49e+04] (1373.9 ms)\n",
        "2/2 steps 250..300 of 2562 epoch 2 loss 3.621 lr 7.71e-05 1373.9 ms/step",
    );
    // The tutorial of PyTorch.
    check(
        "[1,  2000] loss: 2.173\n\
         [1,  4000] loss: 1.853\n\
         [2,  2000] loss: 1.411\n\
         Finished Training\n",
        "3/3 steps 2000..2000 epoch 2 loss 1.411",
    );
    // CoreNet prints the mean of the epoch too, and that of the evaluation.
    check(
        "2026-07-14 06:58:36 - \x1b[34m\x1b[1mLOGS   \x1b[0m - Epoch:   0 [       1/10000000], loss: {'classification': 8.5111, 'neural_augmentation': 11.3111, 'total_loss': 19.8222}, LR: [1e-06, 1e-06], Avg. batch load time: 178.111, Elapsed time: 192.11\n\
         2026-07-14 06:58:46 - \x1b[34m\x1b[1mLOGS   \x1b[0m - *** Training summary for epoch 0\n\
         \t loss={'classification': 8.4111, 'neural_augmentation': 10.6111, 'total_loss': 19.0222}\n\
         2026-07-14 07:01:54 - \x1b[34m\x1b[1mLOGS   \x1b[0m - *** Validation summary for epoch 0\n\
         \t loss={'classification': 8.1111, 'neural_augmentation': 0.0, 'total_loss': 8.1111} || top1={'logits': 0.0}\n\
         2026-07-14 07:02:03 - \x1b[34m\x1b[1mLOGS   \x1b[0m - Epoch:   1 [      61/10000000], loss: {'classification': 8.1111, 'neural_augmentation': 11.5111, 'total_loss': 19.6222}, LR: [4e-06, 4e-06], Avg. batch load time: 1.111, Elapsed time: 3.11\n",
        "2/2 steps 1..61 of 10000000 epoch 1 loss 19.6222 lr 4e-06",
    );
    // Swin, DINO, LAVIS.
    check(
        "[2026-01-02 10:00:00 swin_tiny_patch4](main.py 231): INFO Train: [0/300][0/1251]\teta 0:42:11 lr 0.000001\t wd 0.0500\ttime 2.0311 (2.0311)\tloss 6.9411 (6.9411)\tgrad_norm 1.2211 (1.2211)\tloss_scale 65536.0000 (65536.0000)\tmem 8911MB\n\
         [2026-01-02 10:00:09 swin_tiny_patch4](main.py 231): INFO Train: [0/300][10/1251]\teta 0:12:11 lr 0.000002\t wd 0.0500\ttime 0.5311 (0.6311)\tloss 6.9311 (6.9351)\tgrad_norm 1.3211 (1.2511)\tloss_scale 65536.0000 (65536.0000)\tmem 8911MB\n",
        "2/2 steps 0..10 of 1251 epoch 0 loss 6.9311 lr 0.000002 0.5311 s/step eta 0:12:11",
    );
    check(
        "I20260102 10:00:00 812 dinov2 helpers.py:103] Training  [     0/125000]  eta: 3 days, 2:11:10  lr: 0.0000 (0.0000)  wd: 0.0400 (0.0400)  mom: 0.9920 (0.9920)  total_loss: 12.5111 (12.5111)  dino_local_crops_loss: 8.1 (8.1)  koleo_loss: -0.1 (-0.1)  time: 2.1351  data: 1.1111  max mem: 20111\n\
         I20260102 10:00:09 812 dinov2 helpers.py:103] Training  [    10/125000]  eta: 1 day, 2:11:10  lr: 0.0001 (0.0000)  wd: 0.0400 (0.0400)  mom: 0.9920 (0.9920)  total_loss: 12.4111 (12.4511)  dino_local_crops_loss: 8.0 (8.1)  koleo_loss: -0.1 (-0.1)  time: 0.7351  data: 0.1111  max mem: 20111\n",
        "2/2 steps 0..10 of 125000 loss 12.4111 lr 0.0001 0.7351 s/step eta 1 day, 2:11:10",
    );
    check(
        "Train: data epoch: [0]  [   50/1133]  eta: 1:22:11  lr: 0.000001  loss: 3.1111  time: 0.4111  data: 0.0000  max mem: 20111\n\
         Train: data epoch: [0]  [  100/1133]  eta: 1:20:11  lr: 0.000002  loss: 3.0111  time: 0.4121  data: 0.0000  max mem: 20111\n",
        "2/2 steps 50..100 of 1133 epoch 0 loss 3.0111 lr 0.000002 0.4121 s/step eta 1:20:11",
    );
    // The example of PyTorch for super-resolution.
    check(
        "===> Epoch[1](1/50): Loss: 0.1211\n\
         ===> Epoch[1](2/50): Loss: 0.1011\n\
         ===> Epoch 1 Complete: Avg. Loss: 0.1111\n",
        "2/2 steps 1..2 of 50 epoch 1 loss 0.1011",
    );
}

#[test]
fn positions_with_names_of_their_own() {
    // ms-swift writes position and end as a text, and the unit of its speed in brackets.
    check(
        "Train:   1%|1         | 10/960 [00:21<33:10,  2.10s/it]\n\
         {'loss': 1.5121, 'token_acc': 0.6411, 'grad_norm': 1.21, 'learning_rate': 1e-05, 'memory(GiB)': 21.3, 'train_speed(iter/s)': 0.476, 'epoch': 0.01, 'global_step/max_steps': '10/960', 'percentage': '1.04%', 'elapsed_time': '21s', 'remaining_time': '33m 12s'}\n\
         Train:   2%|2         | 20/960 [00:42<32:50,  2.10s/it]\n\
         {'loss': 1.4411, 'token_acc': 0.6511, 'grad_norm': 1.11, 'learning_rate': 2e-05, 'memory(GiB)': 21.3, 'train_speed(iter/s)': 0.477, 'epoch': 0.02, 'global_step/max_steps': '20/960', 'percentage': '2.08%', 'elapsed_time': '42s', 'remaining_time': '32m 51s'}\n",
        "2/2 steps 10..20 of 960 epoch 0.02 loss 1.4411 lr 2e-05 0.477 it/s eta 32m 51s",
    );
    // LLaMA-Factory's file of records.
    check(
        "{\"current_steps\": 10, \"total_steps\": 330, \"loss\": 1.3121, \"lr\": 4.9e-05, \"epoch\": 0.09, \"percentage\": 3.03, \"elapsed_time\": \"0:00:41\", \"remaining_time\": \"0:21:52\"}\n\
         {\"current_steps\": 20, \"total_steps\": 330, \"loss\": 1.2011, \"lr\": 4.8e-05, \"epoch\": 0.18, \"percentage\": 6.06, \"elapsed_time\": \"0:01:21\", \"remaining_time\": \"0:20:55\"}\n",
        "2/2 steps 10..20 of 330 epoch 0.18 loss 1.2011 lr 4.8e-05 eta 0:20:55",
    );
    // InternLM.
    check(
        "2026-01-02 10:00:00,000\tINFO train.py, line 185, in record_current_batch_training_metrics -- tflops=181.2, step=10, loss=10.911, tgs (tokens/gpu/second)=3811.21, lr=1.2e-07, loss_scale=65536.0, grad_norm={'0_default': 21.2}, micro_num=4, num_consumed_tokens=1310720\n\
         2026-01-02 10:00:04,000\tINFO train.py, line 185, in record_current_batch_training_metrics -- tflops=182.2, step=11, loss=10.811, tgs (tokens/gpu/second)=3911.21, lr=1.3e-07, loss_scale=65536.0, grad_norm={'0_default': 20.2}, micro_num=4, num_consumed_tokens=1441792\n",
        "2/2 steps 10..11 loss 10.811 lr 1.3e-07 3911.21 tokens/s/gpu",
    );
    // The example of PyTorch for language models.
    check(
        "| epoch   1 |   200/ 2983 batches | lr 20.00 | ms/batch 12.11 | loss  7.63 | ppl  2058.55\n\
         | epoch   1 |   400/ 2983 batches | lr 20.00 | ms/batch 11.11 | loss  6.86 | ppl   951.55\n\
         -----------------------------------------------------------------------------------------\n\
         | end of epoch   1 | time: 36.11s | valid loss  5.81 | valid ppl   333.11\n",
        "2/2 steps 200..400 of 2983 epoch 1 loss 6.86 lr 20.00 11.11 ms/step",
    );
    // OpenRLHF names the epoch in the name of its bar, kohya in a line that counts it anew.
    check(
        "Train epoch:   0%|          | 0/1 [00:00<?, ?it/s]\n\
         Train step of epoch 0:  10%|#         | 100/1000 [01:00<09:00,  1.67it/s, gpt_loss=1.21, loss_mean=1.31, lr=9e-6]\n\
         Train step of epoch 0:  10%|#         | 101/1000 [01:01<08:59,  1.67it/s, gpt_loss=1.20, loss_mean=1.30, lr=8.9e-6]\n",
        "2/2 steps 100..101 of 1000 epoch 0 loss 1.30 lr 8.9e-6 1.67 it/s eta 08:59",
    );
    check(
        "epoch 1/4\n\
         steps:   0%|          | 0/400 [00:00<?, ?it/s]\n\
         epoch is incremented. current_epoch: 0, epoch: 1\n\
         steps:   0%|          | 1/400 [00:05<33:11,  4.99s/it, avr_loss=0.141]\n\
         steps:   0%|          | 2/400 [00:07<25:11,  3.80s/it, avr_loss=0.121]\n\
         saving checkpoint: ./out/model-000001.safetensors\n",
        "2/2 steps 1..2 of 400 epoch 1 loss 0.121 3.80 s/it eta 25:11",
    );
    // CatBoost.
    check(
        "Learning rate set to 0.081\n\
         0:\tlearn: 0.6611211\ttest: 0.6621211\tbest: 0.6621211 (0)\ttotal: 52.1ms\tremaining: 52s\n\
         1:\tlearn: 0.6311211\ttest: 0.6341211\tbest: 0.6341211 (1)\ttotal: 81.1ms\tremaining: 40.5s\n\
         \n\
         bestTest = 0.6341211\n\
         bestIteration = 1\n",
        "2/2 steps 0..1 loss 0.6311211 eta 40.5s",
    );
    // A time that is a date is no duration of a step.
    check(
        "{\"time\":\"2026-01-02T10:00:00Z\",\"message\":\"step=40 loss=2.25 lr=3e-05\"}\n\
         {\"time\":\"2026-01-02T10:00:09Z\",\"message\":\"step=50 loss=2.15 lr=3e-05\"}\n",
        "2/2 steps 40..50 loss 2.15 lr 3e-05",
    );
    // Thousands of tokens; a slash in a name.
    check(
        "step 100/1000 (10.0%): loss=3.2111 (avg 3.4111), 12.1k tok/s, elapsed 0:01:10, eta 0:10:30\n\
         step 200/1000 (20.0%): loss=3.0111 (avg 3.2111), 12.3k tok/s, elapsed 0:02:20, eta 0:09:20\n",
        "2/2 steps 100..200 of 1000 loss 3.0111 12.3k tokens/s eta 0:09:20",
    );
    check(
        "Iter: 100\tTotal Loss: 3.1111\tRecon Loss: 2.1111\tLR: 0.0001\tTime/iter: 0.211s\n\
         Iter: 200\tTotal Loss: 2.9111\tRecon Loss: 1.9111\tLR: 0.0001\tTime/iter: 0.201s\n",
        "2/2 steps 100..200 loss 2.9111 lr 0.0001 0.201 s/step",
    );
    // mpirun names the rank.
    check(
        "[1,0]<stdout>:step 5: loss 2.5, lr 1e-3\n\
         [1,1]<stdout>:step 5: loss 2.4, lr 1e-3\n\
         [1,0]<stdout>:step 6: loss 2.3, lr 1e-3\n\
         [1,1]<stdout>:step 6: loss 2.2, lr 1e-3\n",
        "2/4 steps 5..6 loss 2.2 lr 1e-3",
    );
    // Levanter logs its bar.
    check(
        "2026-03-09 02:46:35,000 - 0 - levanter.callbacks - INFO - Progress on:train 11.0it/20.0kit rate:3.4s/it remaining:18:53:20 elapsed:17:46 postfix:loss=9.51\n\
         2026-03-09 02:46:39,000 - 0 - levanter.callbacks - INFO - Progress on:train 12.0it/20.0kit rate:3.3s/it remaining:18:20:20 elapsed:17:50 postfix:loss=9.43\n\
         2026-03-09 02:46:49,000 - 0 - levanter.callbacks - INFO - Progress on:eval 2.0it/8.0it rate:1.3s/it remaining:00:08 elapsed:00:02 postfix:loss=9.51\n",
        "2/2 steps 11..12 of 20k loss 9.43 3.3 s/it eta 18:20:20",
    );
}

#[test]
fn lines_below_a_record_tell_the_rest() {
    // TensorFlow: the speed, or the losses and the rate.
    check(
        "INFO:tensorflow:loss = 2.3111, step = 1\n\
         INFO:tensorflow:global_step/sec: 81.0111\n\
         INFO:tensorflow:loss = 0.3111, step = 101 (1.234 sec)\n\
         INFO:tensorflow:global_step/sec: 82.0111\n\
         INFO:tensorflow:Loss for final step: 0.2111.\n",
        "2/2 steps 1..101 loss 0.3111 82.0111 steps/s",
    );
    check(
        "INFO:tensorflow:Step 100 per-step time 0.512s\n\
         INFO:tensorflow:{'Loss/classification_loss': 0.5111,\n\
         \x20'Loss/localization_loss': 0.2111,\n\
         \x20'Loss/regularization_loss': 0.1511,\n\
         \x20'Loss/total_loss': 0.8733,\n\
         \x20'learning_rate': 0.014666351}\n\
         INFO:tensorflow:Step 200 per-step time 0.412s\n\
         INFO:tensorflow:{'Loss/classification_loss': 0.4111,\n\
         \x20'Loss/localization_loss': 0.1111,\n\
         \x20'Loss/regularization_loss': 0.1511,\n\
         \x20'Loss/total_loss': 0.6733,\n\
         \x20'learning_rate': 0.0159997}\n",
        "2/2 steps 100..200 loss 0.6733 lr 0.0159997 0.412 s/step",
    );
    // Coqui prints a block under each position, DeepSpeed-Chat the speed, CleanRL and MindSpore too.
    check(
        "   --> TIME: 2026-01-02 10:00:00 -- STEP: 24/406 -- GLOBAL_STEP: 25\n\
         \x20    | > decoder_loss: 1.2111  (1.3111)\n\
         \x20    | > loss: 2.2111  (2.3111)\n\
         \x20    | > grad_norm: 1.1  (1.2)\n\
         \x20    | > current_lr: 0.0001 \n\
         \x20    | > step_time: 0.5111  (0.6111)\n\
         \x20    | > loader_time: 0.0111  (0.0211)\n\
         \n\
         \x20  --> TIME: 2026-01-02 10:00:09 -- STEP: 49/406 -- GLOBAL_STEP: 50\n\
         \x20    | > decoder_loss: 1.1111  (1.2111)\n\
         \x20    | > loss: 2.1111  (2.2111)\n\
         \x20    | > grad_norm: 1.0  (1.2)\n\
         \x20    | > current_lr: 0.0002 \n\
         \x20    | > step_time: 0.4111  (0.5111)\n\
         \x20    | > loader_time: 0.0111  (0.0211)\n\
         \n",
        "2/2 steps 24..49 of 406 loss 2.1111 lr 0.0002 0.4111 s/step",
    );
    check(
        "epoch: 0|step: 158|ppo_ep: 1|act_loss: 0.3061|cri_loss: 0.1681|unsuper_loss: 0.0\n\
         average reward score: 2.17\n\
         -------------------------------------------------------------------------------------\n\
         |E2E latency=3.77s |Gather latency=0.00s (0.00%) |Generate time=2.54s (67.21%) |Training time=1.01s (26.81%) |Others=0.23 (5.98%)|CurSamplesPerSec=16.96 |AvgSamplesPerSec=16.79\n\
         epoch: 0|step: 159|ppo_ep: 1|act_loss: 0.3144|cri_loss: 0.1865|unsuper_loss: 0.0\n\
         average reward score: 1.39\n\
         -------------------------------------------------------------------------------------\n\
         |E2E latency=3.92s |Gather latency=0.00s (0.00%) |Generate time=2.62s (66.74%) |Training time=1.08s (27.59%) |Others=0.22 (5.68%)|CurSamplesPerSec=16.31 |AvgSamplesPerSec=16.77\n",
        "2/2 steps 158..159 epoch 0 loss 0.3144 16.31 samples/s",
    );
    check(
        "global_step=412, episodic_return=23.0\n\
         SPS: 1211\n\
         global_step=500, episodic_return=31.0\n\
         SPS: 1311\n",
        "2/2 steps 412..500 1311 steps/s",
    );
    check(
        "epoch: 1 step: 100, loss is 2.3111\n\
         epoch: 1 step: 200, loss is 2.2111\n\
         epoch time: 21110.111 ms, per step time: 105.511 ms\n",
        "2/2 steps 100..200 epoch 1 loss 2.2111 105.511 ms/step",
    );
}

#[test]
fn means_and_evaluations_beside_records_are_none() {
    // The loss of an evaluation beside the mean time of a step; fairseq's old mean of an epoch.
    check(
        "step:0/1770 val_loss:10.8258 train_time:0ms step_avg:nanms\n\
         step:1/1770 train_time:121ms step_avg:121.44ms\n\
         step:2/1770 train_time:240ms step_avg:120.12ms\n\
         step:125/1770 val_loss:4.6612 train_time:11902ms step_avg:95.22ms\n\
         step:126/1770 train_time:12001ms step_avg:95.25ms\n",
        "3/3 steps 1..126 of 1770 95.25 ms/step",
    );
    check(
        "| epoch 001:    100 / 1200 loss=12.11, nll_loss=11.9, ppl=3821.1, wps=35121, ups=2, wpb=16211.1, bsz=512, num_updates=101, lr=1.27e-05, gnorm=2.11, clip=0.000, oom=0.000, loss_scale=8.000, wall=61, train_wall=58\n\
         | epoch 001:    200 / 1200 loss=11.11, nll_loss=10.9, ppl=1911.1, wps=35221, ups=2, wpb=16211.1, bsz=512, num_updates=201, lr=2.52e-05, gnorm=1.91, clip=0.000, oom=0.000, loss_scale=8.000, wall=121, train_wall=116\n\
         | epoch 001 | loss 10.2 | nll_loss 10.1 | ppl 1098.1 | wps 35211 | ups 2 | num_updates 1200\n\
         | epoch 001 | valid on 'valid' subset | loss 9.81 | nll_loss 9.4 | ppl 675.1 | num_updates 1200\n",
        "2/2 steps 100..200 of 1200 epoch 001 loss 11.11 lr 2.52e-05 35221 words/s",
    );
}

#[test]
fn tables_with_tabs_commas_and_names_of_two_words() {
    // Notebooks.
    check(
        "Epoch\tTraining Loss\tValidation Loss\tAccuracy\n\
         1\tNo log\t0.612000\t0.711000\n\
         2\t0.551200\t0.501000\t0.781000\n\
         3\t0.401100\t0.450000\t0.802000\n",
        "2/2 epoch 3 loss 0.401100",
    );
    check(
        "Step\tTraining Loss\n\
         10\t1.820500\n\
         20\t1.611200\n\
         30\t1.402200\n",
        "3/3 steps 10..30 loss 1.402200",
    );
    // spaCy, and a file of values.
    check(
        "============================= Training pipeline =============================\n\
         E    #       LOSS TOK2VEC  LOSS NER  ENTS_F  ENTS_P  ENTS_R  SCORE \n\
         ---  ------  ------------  --------  ------  ------  ------  ------\n\
         \x20 0       0          0.00     45.12    0.51    0.31    1.20    0.01\n\
         \x20 0     200        100.23   2000.10   40.11   41.11   39.11    0.40\n\
         \x20 1     400        110.23   1000.10   50.11   51.11   49.11    0.50\n",
        "3/3 steps 0..400 epoch 1 loss 110.23",
    );
    check(
        "epoch,step,train_loss,val_loss,lr\n\
         0,100,2.31,2.41,0.001\n\
         0,200,2.11,2.31,0.001\n",
        "2/2 steps 100..200 epoch 0 loss 2.11 lr 0.001",
    );
}

#[test]
fn settings_are_no_record() {
    // What a program was started with, and bars of what it loads.
    check(
        "Namespace(batch_size=32, epochs=10, lr=0.001, weight_decay=0.01, steps=1000)\n\
         Loading checkpoint shards: 100%|##########| 4/4 [00:06<00:00,  1.51s/it]\n\
         trainable params: 41,943,040 || all params: 8,072,204,288 || trainable%: 0.5196\n\
         GPU 0: NVIDIA GeForce RTX 4090 (UUID: GPU-1)\n\
         Dataset: 1200 train / 100 val examples\n",
        "0/0",
    );
}

#[test]
fn bars_without_a_loss_or_an_end() {
    // Lightning, one drawing for each epoch; and where nobody knows how many batches there are.
    check(
        "Epoch 0: 100%|##########| 311/311 [00:13<00:00, 23.54it/s, v_num=422]\n\
         Epoch 1: 100%|##########| 311/311 [00:13<00:00, 23.69it/s, v_num=422]\n",
        "0/0 bar 2 steps 311..311 of 311 epoch 1 23.69 it/s eta 00:00",
    );
    check(
        "Epoch 0: |          | 51/? [00:20<00:00,  2.51it/s, v_num=0, train_loss=2.31]\n\
         Epoch 0: |          | 52/? [00:20<00:00,  2.52it/s, v_num=0, train_loss=2.21]\n",
        "2/2 steps 51..52 epoch 0 loss 2.21 2.52 it/s eta 00:00",
    );
    // A collector that writes carriage returns as syslog does.
    check(
        "#015  1%|          | 10/1000 [00:20<33:00,  2.00s/it]#015                                                 #015{'loss': 1.2111, 'learning_rate': 1e-05, 'epoch': 0.1}\n",
        "1/1 bar 1 steps 10..10 of 1000 epoch 0.1 loss 1.2111 lr 1e-05 2.00 s/it eta 33:00",
    );
}

#[test]
fn a_loss_before_its_position() {
    // Loops of one's own.
    check(
        "Loss at step 100: 2.3111\n\
         Loss at step 200: 2.1111\n",
        "2/2 steps 100..200 loss 2.1111",
    );
    check(
        "Cost after iteration 0: 0.6931\n\
         Cost after iteration 100: 0.6481\n",
        "2/2 steps 0..100 loss 0.6481",
    );
    check(
        "Training loss in epoch 1: 0.8111\n\
         Validation loss in epoch 1: 0.9111\n\
         Training loss in epoch 2: 0.6111\n\
         Validation loss in epoch 2: 0.8111\n",
        "2/2 epoch 2 loss 0.6111",
    );
}

#[test]
fn what_callbacks_say_is_no_record() {
    // Lightning, Keras, PyTorch.
    check(
        "Epoch 1: 100%|##########| 10/10 [00:13<00:00,  1.54it/s, v_num=4, train_loss=0.511]\n\
         Epoch 1, global step 20: 'val_loss' reached 0.51111 (best 0.51111), saving model to 'x/epoch=1-step=20.ckpt' as top 1\n\
         Epoch 00002: val_loss improved from 0.61111 to 0.51111, saving model to best.h5\n\
         Epoch 3: ReduceLROnPlateau reducing learning rate to 0.0005000000237487257.\n\
         Adjusting learning rate of group 0 to 1.0000e-03.\n\
         EarlyStopping counter: 3 out of 5\n\
         Best model at epoch 12 with loss 0.31\n\
         Restoring model weights from the end of the best epoch: 7.\n",
        "1/1 steps 10..10 of 10 epoch 1 loss 0.511 1.54 it/s eta 00:00",
    );
}

#[test]
fn more_trainers_of_points_images_speech_and_worlds() {
    // ColossalAI: the unit with underscores, behind an epoch and in a bar.
    check(
        "INFO     colossalai - colossalai - INFO: [Epoch 0 / Train]: Loss = 1.75 | LR = 0.1 | Throughput = 801.11 sample_per_sec\n\
         INFO     colossalai - colossalai - INFO: [Epoch 1 / Train]: Loss = 1.25 | LR = 0.09 | Throughput = 812.55 sample_per_sec\n\
         INFO     colossalai - colossalai - INFO: [Epoch 1 / Test]: Loss = 1.5 | Accuracy = 0.51 | Throughput = 1812.55 sample_per_sec\n",
        "2/2 epoch 1 loss 1.25 lr 0.09 812.55 samples/s",
    );
    // LION: below the program's place, which has a number too.
    check(
        "2026-02-01 10:00:00.123 | INFO     | trainers.base_trainer:train_epochs:256 - [R0] | E79 iter[ 13/ 15] | [Loss] 0.25 | [exp] ../exp/a | [step]  1198\n\
         2026-02-01 10:00:04.123 | INFO     | trainers.base_trainer:train_epochs:256 - [R0] | E79 iter[ 14/ 15] | [Loss] 0.125 | [exp] ../exp/a | [step]  1199\n",
        "2/2 steps 13..14 of 15 epoch 79 loss 0.125",
    );
    // OpenPCDet: the epoch with its end and share before the position.
    check(
        "2026-02-01 10:00:00,000   INFO  Train:    1/80 (  1%) [   0/3712 (  0%)]  Loss: 5.5 (5.5)  LR: 1.000e-04  Time cost: 00:01/1:40:00 [00:01/133:00:00]  Acc_iter 1           Data time: 0.30(0.30)  Forward time: 0.91(0.91)  Batch time: 1.25(1.25)\n\
         2026-02-01 10:00:40,000   INFO  Train:    1/80 (  1%) [  50/3712 (  1%)]  Loss: 3.5 (4.5)  LR: 1.125e-04  Time cost: 00:41/1:00:00 [00:41/83:00:00]  Acc_iter 51          Data time: 0.00(0.01)  Forward time: 0.75(0.72)  Batch time: 0.75(0.73)\n",
        "2/2 steps 0..50 of 3712 epoch 1 loss 3.5 lr 1.125e-04 0.75 s/step",
    );
    check(
        "2026-02-01 10:01:00,000   INFO  epoch: 1, acc_iter=51, cur_iter=50/3712, batch_size=4, iter_cost=0.73s, loss=3.5, d_time=0.00(0.01), f_time=0.71(0.72), lr=0.00011\n",
        "1/1 steps 50..50 of 3712 epoch 1 loss 3.5 lr 0.00011 0.73 s/step",
    );
    // snowfall: the loss of the batch, not the mean of all so far.
    check(
        "2026-02-01 19:14:03,123 INFO [train.py:200] batch 10, epoch 0/10 global average objf: 1.5 over 1234567.0 frames (100.0% kept), current batch average objf: 1.25 over 12345 frames (100.0% kept) avg time waiting for batch 0.123s\n\
         2026-02-01 19:15:03,123 INFO [train.py:250] Validation average objf: 1.375 over 234567.0 frames (100.0% kept)\n",
        "1/1 steps 10..10 epoch 0 loss 1.25",
    );
    // DreamerV3: a rule with the step, then names and values between slashes.
    check(
        "────────────────────────────── Step 10,034 ──────────────────────────────\n\
         episode/length 250 / episode/score 31.5 / train/action_mag 0.8 / train/opt/loss 44.5 / fps/policy 50.2\n\
         ────────────────────────────── Step 12,034 ──────────────────────────────\n\
         episode/length 250 / episode/score 33.5 / train/action_mag 0.8 / train/opt/loss 42.5 / fps/policy 50.3\n",
        "2/2 steps 10034..12034 loss 42.5",
    );
    // rl_games has epochs and speeds alone.
    check(
        "fps step: 12111 fps step and policy inference: 11111 fps total: 10111 epoch: 1/1000 frames: 0\n\
         fps step: 12211 fps step and policy inference: 11211 fps total: 10211 epoch: 2/1000 frames: 65536\n",
        "2/2 epoch 2 12211 frames/s",
    );
    // BasicSR: two times behind one name.
    check(
        "2026-02-01 10:00:00,000 INFO: [train..][epoch:  0, iter:     100, lr:(2.000e-04,)] [eta: 1 day, 2:21:10, time (data): 0.321 (0.011)] l_pix: 5.5000e-02 \n\
         2026-02-01 10:00:30,000 INFO: [train..][epoch:  0, iter:     200, lr:(2.000e-04,)] [eta: 1 day, 2:11:10, time (data): 0.311 (0.001)] l_pix: 4.5000e-02 \n",
        "2/2 steps 100..200 epoch 0 loss 4.5000e-02 lr 2.000e-04 0.311 s/iter eta 1 day, 2:11:10",
    );
}

#[test]
fn speeds_behind_other_words_and_blocks_with_an_epoch() {
    // PaddleNLP, T5X.
    check(
        "[2026-02-01 10:00:00,000] [    INFO] - loss: 1.5, learning_rate: 1e-05, global_step: 10, interval_runtime: 5.1, interval_samples_per_second: 31.25, interval_steps_per_second: 1.95, progress_or_epoch: 0.01\n\
         [2026-02-01 10:00:05,000] [    INFO] - loss: 1.25, learning_rate: 2e-05, global_step: 20, interval_runtime: 5.1, interval_samples_per_second: 31.5, interval_steps_per_second: 1.96, progress_or_epoch: 0.02\n",
        "2/2 steps 10..20 epoch 0.02 loss 1.25 lr 2e-05 31.5 samples/s",
    );
    check(
        "I0201 10:00:00.000000 140 metric_writers.py:311] [100] collection=train accuracy=0.51, learning_rate=0.01, loss=5.5, timing/seqs_per_second=12.1, timing/steps_per_second=3.41, timing/target_tokens_per_second=1021.5\n",
        "1/1 steps 100..100 loss 5.5 lr 0.01 1021.5 tokens/s",
    );
    // Composer: the epoch among the values below the position, and its bars count `ba`.
    check(
        "[batch=1/40]:\n\t Train time/epoch: 0\n\t Train time/batch: 0\n\t Train loss/train/total: 9.75\n\
         [batch=2/40]:\n\t Train time/epoch: 0\n\t Train time/batch: 1\n\t Train loss/train/total: 9.5\n",
        "2/2 steps 1..2 of 40 epoch 0 loss 9.5",
    );
    check(
        "train          Epoch   0:    2%|4         | 10/625 ba [00:05<05:00,  2.05ba/s, loss/train/total=2.25]\r\
         train          Epoch   0:    2%|4         | 11/625 ba [00:06<04:59,  2.05ba/s, loss/train/total=2.125]\r\
         eval           Epoch   0:   10%|4         | 1/10 ba [00:06<04:59,  2.05ba/s, metrics/eval/Accuracy=0.5]\r",
        "2/2 steps 10..11 of 625 epoch 0 loss 2.125 2.05 batches/s eta 04:59",
    );
    // Bars of tqdm-loggable whose thousands are no whole numbers, beside records.
    check(
        "08:04:23.709 [I] Progress on: 6.19kit/200kit rate:1.6s/it remaining:84:45:17 elapsed:2:49:33 postfix:- (24:tqdm_logging.py:145)\n\
         Step 6200: grad_norm=0.4, loss=0.25, param_norm=1377.9\n\
         08:06:23.709 [I] Progress on: 8.11kit/200kit rate:1.5s/it remaining:84:25:17 elapsed:2:51:33 postfix:- (24:tqdm_logging.py:145)\n",
        "1/1 steps 6200..6200 loss 0.25",
    );
    // Paddle's steps of an evaluation stand under a heading; LightGBM repeats its best iteration.
    check(
        "Epoch 1/10\nstep  10/614 - loss: 0.5 - acc: 0.51 - 3s/step\nstep  20/614 - loss: 0.25 - acc: 0.52 - 3s/step\n\
         Eval begin...\nstep 10/88 - loss: 0.75 - acc: 0.5 - 1s/step\nEval samples: 1219\n\
         Epoch 2/10\nstep  10/614 - loss: 0.125 - acc: 0.51 - 2s/step\n",
        "3/3 steps 10..10 of 614 epoch 2 loss 0.125 2 s/step",
    );
    check(
        "[100]\ttraining's l2: 0.4\tvalid_1's l2: 0.5\n[200]\ttraining's l2: 0.3\tvalid_1's l2: 0.45\n\
         Did not meet early stopping. Best iteration is:\n[190]\ttraining's l2: 0.31\tvalid_1's l2: 0.44\n",
        "2/2 steps 100..200 loss 0.3",
    );
}
