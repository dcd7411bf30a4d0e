"""The one rule that says which prompts the testbed never saw in training."""

from functools import cache
from hashlib import sha256

from analysis.tasks.words import read_words

SPLITS = ("held-out", "train")


@cache
def is_held_out(task: str, key: str) -> bool:
    """Whether `key` is held out of training: a fixed pseudo-random share of each task's keys.

    The key is what has to generalise: a pair of names (ioi), a start year (greater-than), a
    template with a profession (gender-bias), a template with a capital (capital-country). The
    share is `held_out` in the task's word list; a hash decides, so that no seed, no order and no
    other key plays a part.
    """
    position = int.from_bytes(sha256(f"{task}/{key}".encode()).digest()[:8], "big") / 2**64
    return position < read_words(task)["held_out"]


def in_split(task: str, key: str, split: str) -> bool:
    """Whether `key` belongs to `split`, one of `SPLITS`."""
    return is_held_out(task, key) == (split == "held-out")
