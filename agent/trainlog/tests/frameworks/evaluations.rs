//! Evaluations that a heading announces, in the manner of Paddle, and trainings that go on below them.

use super::check;

#[test]
fn a_training_goes_on_without_a_heading() {
    // At a later step, in a later epoch, with a learning rate, or as the end of the evaluation says.
    check(
        "step 10/100 - loss: 0.5\nstep 20/100 - loss: 0.25\n\
         Eval begin...\nstep 1/80 - loss: 0.75\nstep 40/80 - loss: 0.625\n\
         step 30/100 - loss: 0.125\nstep 40/100 - loss: 0.0625\n",
        "4/4 steps 10..40 of 100 loss 0.0625",
    );
    check(
        "Epoch [1/3], Step [20/20], Loss: 0.5\nEval begin...\nEpoch [1/3], Step [4/4], Loss: 0.75\n\
         Epoch [2/3], Step [10/20], Loss: 0.25\n",
        "2/2 steps 20..10 of 20 epoch 2 loss 0.25",
    );
    check(
        "step 614/614 - loss: 0.5 - lr: 0.2\nEval begin...\nstep 88/88 - loss: 0.75\n\
         step 10/614 - loss: 0.25 - lr: 0.1\nstep 20/614 - loss: 0.125\n",
        "3/3 steps 614..20 of 614 loss 0.125 lr 0.1",
    );
    check(
        "step 614/614 - loss: 0.5\nEval begin...\nstep 88/88 - loss: 0.75\nEval samples: 1219\n\
         step 10/614 - loss: 0.25\n",
        "2/2 steps 614..10 of 614 loss 0.25",
    );
}
