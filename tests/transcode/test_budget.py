"""What an encoder without a buffer of its own may spend."""

from __future__ import annotations

import random

import pytest

from transcode.budget import PROMISE_SHARE, Budget

RATE, FRAME = 800_000, 3600
USUAL = RATE // 25


def segment(budget: Budget, number: int, sizes: list[int]) -> tuple[int, int]:
    """(bits, pictures left out) of one that begins with an IDR of `sizes[0]`."""
    start = number * len(sizes) * FRAME
    budget.begin(start)
    assert budget.takes(sizes[0], keyframe=True)
    bits, left_out = sizes[0], 0
    for n, size in enumerate(sizes[1:], 1):
        if budget.allows(start + n * FRAME) and budget.takes(size, keyframe=False):
            bits += size
        else:
            left_out += 1
    return bits, left_out


def test_a_large_keyframe_and_a_large_picture_that_are_paid_back_cost_no_picture() -> None:
    budget = Budget(RATE, 1000)
    sizes = [int(0.6 * RATE)] + [USUAL * 6 // 10] * 49
    sizes[45] = USUAL * 5
    for number in range(5):
        bits, left_out = segment(budget, number, sizes)
        assert left_out == 0
        assert bits == sum(sizes)


@pytest.mark.parametrize("times", [1.2, 2, 5])
def test_a_segment_is_never_far_over_its_target(times: float) -> None:
    chance, budget = random.Random(3), Budget(RATE, 1000)
    for number in range(20):
        sizes = [int(0.4 * RATE)] + [int(USUAL * times * chance.uniform(0.5, 1.5)) for _ in range(49)]
        bits, left_out = segment(budget, number, sizes)
        assert left_out
        assert bits <= 2 * RATE * (1 + PROMISE_SHARE)


def test_nothing_is_handed_over_behind_a_picture_that_was_not() -> None:
    budget = Budget(RATE, 1000)
    budget.begin(0)
    assert budget.takes(RATE, keyframe=True)
    assert budget.allows(40 * FRAME)
    assert not budget.takes(2 * RATE, keyframe=False)
    assert not budget.takes(10, keyframe=False), "it refers to the one before"
    assert not budget.allows(49 * FRAME)
    budget.begin(50 * FRAME)
    assert budget.takes(RATE, keyframe=True)
    assert budget.takes(10, keyframe=False)
