"""Each parser over a few hundred mutated inputs, always the same ones. `tests/support/fuzz.py` goes on for hours."""

from __future__ import annotations

import pytest
from fuzz import Result, alarm, turn
from fuzz_targets import MAKERS

CASES = 200


@pytest.mark.parametrize("name", MAKERS)
def test_nothing_but_refusals(name: str) -> None:
    target, result = MAKERS[name](), Result()
    with alarm():
        turn(target, result, 1, cases=CASES)
    assert not result.crashes
    assert result.cases == CASES
    assert result.refused < CASES, "the seeds themselves are read"
