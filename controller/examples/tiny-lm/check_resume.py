#!/usr/bin/env python3
"""Proves that train.py may be killed at any time: an interrupted and resumed run prints the same loss at every step, and
ends with the same model, as a run that was left alone. Takes some seconds; exits with 1 and says where they differ.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
STEPS = 160
CHECKPOINT_EVERY = 20
LINE = re.compile(r"step (\d+)/\d+ \| loss (\S+) ")


def start(directory, resume_from=None, step_ms=0):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SPOTTER_")}
    if resume_from:
        environment["SPOTTER_CHECKPOINT"] = str(resume_from)
    command = [sys.executable, str(HERE / "train.py"), f"--steps={STEPS}", f"--checkpoint-every={CHECKPOINT_EVERY}"]
    command.append(f"--step-ms={step_ms}")
    return subprocess.Popen(command, cwd=directory, env=environment, stdout=subprocess.PIPE, text=True)


def run(directory, resume_from=None, kill_after=None, with_signal=signal.SIGKILL):
    """Losses as printed, by step. With `kill_after`, the trainer gets the signal once it has printed that step."""
    # Slowed down where it is to be killed, so that it cannot run far ahead of what we read.
    process = start(directory, resume_from, step_ms=5 if kill_after else 0)
    losses = {}
    for line in process.stdout:
        if match := LINE.match(line):
            losses[int(match[1])] = match[2]
            if int(match[1]) == kill_after:
                process.send_signal(with_signal)
    status = process.wait()
    expected = {None: 0, signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 128 + signal.SIGTERM}
    wanted = expected[with_signal if kill_after else None]
    if status != wanted:
        sys.exit(f"check_resume.py: the trainer ended with {status}, not with {wanted}")
    return losses


def main():
    with tempfile.TemporaryDirectory() as temporary:
        alone, broken = pathlib.Path(temporary, "alone"), pathlib.Path(temporary, "broken")
        alone.mkdir()
        broken.mkdir()
        checkpoints = broken / "checkpoints"
        expected = run(alone)
        lives = [
            run(broken, kill_after=47),
            run(broken, checkpoints, kill_after=93, with_signal=signal.SIGTERM),
            run(broken, checkpoints, kill_after=131),
            run(broken, checkpoints / "step-120.npz"),
        ]
        if sorted(expected) != list(range(1, STEPS + 1)):
            sys.exit(f"check_resume.py: {len(expected)} of {STEPS} steps were printed")
        seen = set()
        for life, losses in enumerate(lives, start=1):
            for step, loss in losses.items():
                seen.add(step)
                if loss != expected[step]:
                    sys.exit(f"check_resume.py: life {life}, step {step}: loss {loss}, but {expected[step]} without interruption")
        if seen != set(expected):
            sys.exit(f"check_resume.py: steps {sorted(set(expected) - seen)} were never done")
        if min(lives[1]) != 41 or min(lives[3]) != 121:
            sys.exit(f"check_resume.py: resumed at steps {[min(losses) for losses in lives]}")
        if (alone / "out/final.npz").read_bytes() != (broken / "out/final.npz").read_bytes():
            sys.exit("check_resume.py: the final models differ")
        left = [path.name for path in checkpoints.iterdir() if not re.fullmatch(r"step-\d+\.npz|\.step-\d+\.npz\.tmp", path.name)]
        if left:
            sys.exit(f"check_resume.py: unexpected files {left}")
    redone = sum(map(len, lives)) - STEPS
    print(f"same loss at each of {STEPS} steps and the same final model, over 3 interruptions ({redone} steps done twice)")


if __name__ == "__main__":
    main()
