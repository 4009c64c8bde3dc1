#!/usr/bin/env python3
"""Writes corpus.txt: the log of an invented harbour, about 40 KB, made of sentence patterns and a fixed seed.

The text is only there to have something to learn from; it is ours and may be shipped.
"""

import pathlib
import random

PEOPLE = ["Ada", "Bram", "Carla", "Dov", "Edda", "Farid", "Greta", "Hugo", "Ines", "Jonas"]
BOATS = ["the Petrel", "the Old Promise", "the Lantern", "the Grey Heron", "the Second Wind", "the Marigold"]
CARGO = ["salt", "barley", "lamp oil", "roof tiles", "wool", "copper wire", "apples", "paper", "rope", "dried fish"]
PLACES = ["the north pier", "the slipway", "the rope shed", "the lighthouse", "the fish market", "the customs house"]
WEATHER = [
    "a thin fog lay over the water",
    "the wind came up from the south",
    "rain fell without a pause",
    "the sea was flat as a plate",
    "the first frost had silvered the ropes",
    "low clouds hid the far shore",
    "the sun stood clear above the masts",
]
TIMES = ["At first light", "Before noon", "At noon", "In the afternoon", "At dusk", "Near midnight"]
ANIMALS = ["gulls", "two seals", "a grey cat", "the harbour dog", "a heron", "swallows"]
SAYINGS = [
    "A knot you cannot undo was tied by somebody in a hurry.",
    "Count the barrels twice and the coins three times.",
    "The tide asks nobody.",
    "Whoever keeps the lamp keeps the harbour.",
    "A dry rope is a lazy rope.",
    "Write it down, or it did not happen.",
]


def sentence(rng):
    """One sentence of the log."""
    one, two = rng.sample(PEOPLE, 2)
    boat, other = rng.sample(BOATS, 2)
    patterns = [
        f"{rng.choice(TIMES)} {rng.choice(WEATHER)}.",
        f"{rng.choice(TIMES)} {boat} came in with {rng.randint(2, 90)} barrels of {rng.choice(CARGO)}.",
        f"{boat[0].upper()}{boat[1:]} left for the islands, and {other} took her place at {rng.choice(PLACES)}.",
        f"{one} helped {two} to carry the {rng.choice(CARGO)} to {rng.choice(PLACES)}.",
        f"{one} asked whether {boat} would sail; {two} looked at the sky and said nothing.",
        f"{rng.choice(TIMES)} {rng.choice(ANIMALS)} were seen near {rng.choice(PLACES)}."
        .replace("a grey cat were", "a grey cat was")
        .replace("dog were", "dog was")
        .replace("heron were", "heron was"),
        f'"{rng.choice(SAYINGS)}" said {one}, and {two} laughed.',
        f"The price of {rng.choice(CARGO)} rose to {rng.randint(3, 40)} pence.",
        f"{one} mended the sail of {boat} while {rng.choice(WEATHER)}.",
        f"{two} found {rng.randint(2, 9)} coils of rope missing from {rng.choice(PLACES)} and told {one}.",
    ]
    return rng.choice(patterns)


def corpus(size):
    """Days of the log until `size` characters are reached."""
    rng = random.Random(1874)
    days = []
    length = 0
    while length < size:
        sentences = " ".join(sentence(rng) for _ in range(rng.randint(4, 7)))
        day = f"Day {len(days) + 1}. {sentences}\n\n"
        days.append(day)
        length += len(day)
    return "".join(days)


if __name__ == "__main__":
    path = pathlib.Path(__file__).with_name("corpus.txt")
    path.write_text(corpus(40_000), encoding="ascii")
    print(f"{path.name}: {path.stat().st_size} bytes")
