#!/usr/bin/env python3
"""Trains a small character language model on corpus.txt. Needs numpy and nothing else.

A run that is interrupted and resumed prints, step by step, exactly the losses of a run that never was: a checkpoint holds
the weights, the optimiser, the step, the random numbers and the place in the data.

Environment (all set by spotter on a rented box, all optional):
  SPOTTER_CHECKPOINT      checkpoint to resume from: a file, or a directory that holds some
  SPOTTER_CHECKPOINT_DIR  where to write checkpoints (default: ./checkpoints)
"""

import os

# Before numpy is imported: with several threads the order of additions, and so the last digits, would vary.
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import json
import math
import pathlib
import re
import signal
import sys
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent

BATCH = 64
CONTEXT = 32  # characters that the next one is guessed from
EMBEDDING = 24
HIDDEN = 192

LEARNING_RATE = 3e-3
WARMUP_STEPS = 50
FINAL_SHARE = 0.1  # of the learning rate, at the last step
BETA1, BETA2, EPSILON = 0.9, 0.99, 1e-8
WEIGHT_DECAY = 0.01
MAX_NORM = 1.0
VALIDATION_BATCHES = 8


class Text:
    """The corpus as numbers, split into a part to learn from and a part to be tested on."""

    def __init__(self, path):
        text = path.read_text(encoding="utf-8")
        self.alphabet = sorted(set(text))
        number = {character: index for index, character in enumerate(self.alphabet)}
        data = np.array([number[character] for character in text], dtype=np.int32)
        cut = len(data) * 9 // 10
        self.train, self.validation = data[:cut], data[cut:]


def windows(data, starts):
    """Inputs of CONTEXT characters each, and the character that follows each of them."""
    return data[starts[:, None] + np.arange(CONTEXT)], data[starts + CONTEXT]


class Batches:
    """Every window of the data once per epoch, in random order. Can stop anywhere and go on from there."""

    def __init__(self, data, seed):
        self.data = data
        self.rng = np.random.Generator(np.random.PCG64(seed))
        self.start_epoch()

    def start_epoch(self):
        # The order follows from the generator's state, which is much smaller to save.
        self.epoch_state = self.rng.bit_generator.state
        self.order = self.rng.permutation(len(self.data) - CONTEXT)
        self.position = 0

    def next(self):
        if self.position + BATCH > len(self.order):
            self.start_epoch()
        starts = self.order[self.position : self.position + BATCH]
        self.position += BATCH
        return windows(self.data, starts)

    def state(self):
        return json.dumps({"epoch": self.epoch_state, "position": self.position})

    def restore(self, text):
        state = json.loads(text)
        self.rng.bit_generator.state = state["epoch"]
        self.start_epoch()
        self.position = state["position"]


def new_weights(vocabulary, seed):
    rng = np.random.Generator(np.random.PCG64([seed, 1]))
    width = CONTEXT * EMBEDDING
    shapes = {
        "embedding": ((vocabulary, EMBEDDING), 0.1),
        "hidden_weight": ((width, HIDDEN), width**-0.5),
        "hidden_bias": ((HIDDEN,), 0.0),
        "output_weight": ((HIDDEN, vocabulary), HIDDEN**-0.5),
        "output_bias": ((vocabulary,), 0.0),
    }
    return {name: rng.normal(0.0, scale, shape) for name, (shape, scale) in shapes.items()}


def forward(weights, inputs, targets):
    """Mean loss, and what the backward pass needs of it."""
    embedded = weights["embedding"][inputs].reshape(len(inputs), -1)
    hidden = np.tanh(embedded @ weights["hidden_weight"] + weights["hidden_bias"])
    scores = hidden @ weights["output_weight"] + weights["output_bias"]
    scores -= scores.max(axis=1, keepdims=True)
    chances = np.exp(scores)
    chances /= chances.sum(axis=1, keepdims=True)
    loss = -np.log(chances[np.arange(len(targets)), targets] + 1e-9).mean()
    return float(loss), (embedded, hidden, chances)


def backward(weights, inputs, targets, activations):
    embedded, hidden, chances = activations
    d_scores = chances.copy()
    d_scores[np.arange(len(targets)), targets] -= 1
    d_scores /= len(targets)
    d_hidden = d_scores @ weights["output_weight"].T * (1 - hidden * hidden)
    d_embedded = (d_hidden @ weights["hidden_weight"].T).reshape(-1, EMBEDDING)
    d_embedding = np.zeros_like(weights["embedding"])
    np.add.at(d_embedding, inputs.reshape(-1), d_embedded)
    return {
        "embedding": d_embedding,
        "hidden_weight": embedded.T @ d_hidden,
        "hidden_bias": d_hidden.sum(axis=0),
        "output_weight": hidden.T @ d_scores,
        "output_bias": d_scores.sum(axis=0),
    }


class AdamW:
    """Adam with decoupled weight decay, on gradients whose norm is at most MAX_NORM."""

    def __init__(self, weights):
        self.mean = {name: np.zeros_like(value) for name, value in weights.items()}
        self.square = {name: np.zeros_like(value) for name, value in weights.items()}

    def update(self, weights, gradients, step, rate):
        """Changes the weights in place; the norm of the gradients before they were clipped."""
        norm = math.sqrt(sum(float((gradient * gradient).sum()) for gradient in gradients.values()))
        scale = min(1.0, MAX_NORM / (norm + 1e-6))
        for name, weight in weights.items():
            gradient = gradients[name] * scale
            mean, square = self.mean[name], self.square[name]
            mean += (1 - BETA1) * (gradient - mean)
            square += (1 - BETA2) * (gradient * gradient - square)
            change = mean / (1 - BETA1**step) / (np.sqrt(square / (1 - BETA2**step)) + EPSILON)
            weight -= rate * (change + WEIGHT_DECAY * weight)
        return norm


def learning_rate(step, steps):
    """Linear warm-up, then half a cosine down to a tenth."""
    if step <= WARMUP_STEPS:
        return LEARNING_RATE * step / WARMUP_STEPS
    share = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return LEARNING_RATE * (FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * share)))


def validation_loss(weights, data):
    """Loss on the same windows every time."""
    starts = np.linspace(0, len(data) - CONTEXT - 1, BATCH * VALIDATION_BATCHES).astype(np.int64)
    return forward(weights, *windows(data, starts))[0]


def write_whole(path, arrays):
    """Writes a file that is either complete under its name or not there: a box may vanish at any instant."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    with open(aside, "wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def save(path, step, weights, optimiser, batches):
    arrays = {"step": np.array(step), "batches": np.array(batches.state())}
    for prefix, group in (("weight", weights), ("mean", optimiser.mean), ("square", optimiser.square)):
        arrays.update({f"{prefix}.{name}": value for name, value in group.items()})
    write_whole(path, arrays)


def load(path, weights, optimiser, batches):
    """Puts everything back; the step after which the checkpoint was written."""
    with np.load(path, allow_pickle=False) as arrays:
        for prefix, group in (("weight", weights), ("mean", optimiser.mean), ("square", optimiser.square)):
            for name, value in group.items():
                value[...] = arrays[f"{prefix}.{name}"]
        batches.restore(str(arrays["batches"]))
        return int(arrays["step"])


def checkpoint_to_resume(named):
    """The file itself, or the newest checkpoint in a directory."""
    path = pathlib.Path(named)
    if not path.is_dir():
        return path
    found = {int(match[1]): file for file in path.glob("*.npz") if (match := re.fullmatch(r"step-(\d+)", file.stem))}
    if not found:
        sys.exit(f"train.py: no step-N.npz in {path}")
    return found[max(found)]


def parse_arguments():
    parser = argparse.ArgumentParser(description="Train a small character language model.")
    parser.add_argument("--steps", type=int, default=1000, help="steps in all, those before a resume included")
    parser.add_argument("--checkpoint-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--step-ms", type=float, default=0.0, help="shortest time of a step, to slow a demonstration down")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out"), help="directory of the final model")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    checkpoints = pathlib.Path(os.environ.get("SPOTTER_CHECKPOINT_DIR") or "checkpoints")
    text = Text(HERE / "corpus.txt")
    weights = new_weights(len(text.alphabet), arguments.seed)
    optimiser = AdamW(weights)
    batches = Batches(text.train, arguments.seed)
    step = 0
    if named := os.environ.get("SPOTTER_CHECKPOINT"):
        path = checkpoint_to_resume(named)
        step = load(path, weights, optimiser, batches)
        print(f"resumed from {path} after step {step}", flush=True)
    parameters = sum(value.size for value in weights.values())
    print(f"{parameters} parameters, {len(text.alphabet)} characters in the alphabet, {len(text.train)} to learn from", flush=True)

    asked_to_end = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked_to_end.append(number))

    while step < arguments.steps:
        started = time.monotonic()
        step += 1
        rate = learning_rate(step, arguments.steps)
        inputs, targets = batches.next()
        loss, activations = forward(weights, inputs, targets)
        if not math.isfinite(loss):
            sys.exit(f"train.py: the loss of step {step} is {loss}")
        gradients = backward(weights, inputs, targets, activations)
        norm = optimiser.update(weights, gradients, step, rate)
        time.sleep(max(0.0, arguments.step_ms / 1000 - (time.monotonic() - started)))
        took = time.monotonic() - started
        print(
            f"step {step}/{arguments.steps} | loss {loss:.6f} | lr {rate:.3e} | norm {norm:.4f}"
            f" | {took * 1000:.1f} ms/step | {BATCH * CONTEXT / took:.0f} tok/s",
            flush=True,
        )
        due = step % arguments.checkpoint_every == 0 or step == arguments.steps
        if due:
            print(f"step {step}/{arguments.steps} | val_loss {validation_loss(weights, text.validation):.6f}", flush=True)
        if due or asked_to_end:
            save(checkpoints / f"step-{step}.npz", step, weights, optimiser, batches)
        if asked_to_end:
            print(f"asked to end, saved after step {step}", flush=True)
            sys.exit(128 + asked_to_end[0])

    write_whole(arguments.out / "final.npz", {**weights, "alphabet": np.array("".join(text.alphabet))})
    print(f"done: {arguments.out / 'final.npz'}", flush=True)


if __name__ == "__main__":
    main()
