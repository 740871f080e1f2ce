"""Facts about record/durations.py: what runs prove of how long things take. (What they took before is
read in tests/plan/test_timing.py.)"""

from __future__ import annotations

import random
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctp_runbook.record.durations import bound_of, rising_p, runs_needed


def chance(runs: int, most: int, share: float) -> float:
    """The binomial distribution, by its definition."""
    return sum(comb(runs, k) * share**k * (1 - share) ** (runs - k) for k in range(most + 1))


def test_fifty_nine_runs_are_needed() -> None:
    """The numbers of every table of tolerance limits (95 % of the content, 95 % confident)."""
    assert [runs_needed(failed) for failed in range(6)] == [59, 93, 124, 153, 181, 208]
    assert runs_needed(wanted=0.99) == 299
    assert runs_needed(wanted=0.9) == 29


def test_a_bound_is_the_longest_of_59_and_the_second_of_93() -> None:
    """One run less proves less, and a longer one more of it."""
    assert bound_of("rollbacks", map(float, range(58))).is_proved is False
    assert [bound_of("rollbacks", map(float, range(many))).seconds for many in (59, 92, 93)] == [
        58.0,
        91.0,
        91.0,
    ]


SAID = {
    "none": ([], 0, "95 % confident of nothing: for 95 % of rollbacks 59 runs are needed, 0 are there"),
    "one": ([2.0], 0, "95 % confident that 5 % of rollbacks end within 2 s; for 95 % 59 runs are needed, 1 is there"),
    "few": (
        [8.2] * 12,
        0,
        "95 % confident that 77.9 % of rollbacks end within 8.2 s; for 95 % 59 runs are needed, 12 are there",
    ),
    "enough": ([8.2] * 64, 0, "95 % confident that 95 % of rollbacks end within 8.2 s: 64 runs"),
    "one failed": (
        [8.2] * 63,
        1,
        "95 % confident that 92.8 % of rollbacks end within 8.2 s; for 95 % 93 runs are needed, 64 are "
        "there, 1 of which did not end well",
    ),
    "all failed": (
        [],
        3,
        "95 % confident of nothing: for 95 % of rollbacks 153 runs are needed, 3 are there, 3 of which "
        "did not end well",
    ),
    "rising": (
        [float(number) for number in range(60)],
        0,
        "95 % confident that 95 % of rollbacks end within 59 s: 60 runs; but they change from run to "
        "run (p = 2e-29), and a bound takes runs as alike",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("seconds", "failed", "said"), SAID.values(), ids=SAID)
def test_the_sentence_says_what_is_proved_and_what_is_missing(
    seconds: list[float], failed: int, said: str
) -> None:
    """So many are needed, so many are there; those that did not end well are counted against it."""
    assert bound_of("rollbacks", seconds, failed=failed).sentence == said


@given(
    st.lists(st.floats(0, 1e6), max_size=130),
    st.integers(0, 4),
    st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
@settings(max_examples=300, deadline=None)
def test_what_is_claimed_is_so_by_the_definition(
    seconds: list[float], failed: int, wanted: float
) -> None:
    """Beyond the bound lie so few runs that a larger share would show more, 19 times in 20."""
    bound = bound_of("x", seconds, failed=failed, wanted=wanted)
    assert bound.runs == len(seconds) + failed
    if not seconds:
        assert (bound.seconds, bound.share) == (None, None)
        return
    assert bound.share is not None
    assert bound.seconds in seconds
    # Of equal durations any may be the one that is meant: as few as possible lie beyond it.
    beyond = sum(each > bound.seconds for each in seconds) + failed
    assert chance(bound.runs, beyond, 1 - bound.share) <= 0.05 + 1e-9
    assert bound.is_proved == (bound.runs >= bound.needed)
    if not bound.is_proved:
        assert bound.seconds == max(seconds)
        assert bound.share < wanted


def test_the_bound_holds_19_times_in_20() -> None:
    """Of three hundred folders of 60 runs each; whatever the distribution, here a skewed one."""
    drawn = random.Random(13)
    held = sum(
        (bound_of("x", [drawn.lognormvariate(1, 0.8) for _ in range(60)]).seconds or 0)
        >= 2.718281828 ** (1 + 0.8 * 1.6448536)
        for _ in range(300)
    )
    assert held >= 276  # 285 are to be expected; fewer than these once in a hundred


def test_a_trend_is_told_from_chance() -> None:
    """Rising and falling alike; neither of few runs, nor of runs that are all one."""
    assert rising_p([1.0] * 50) is None
    assert rising_p([1.0, 2.0, 3.0]) is None
    rising = [float(number) for number in range(20)]
    assert (rising_p(rising) or 1) < 1e-6
    assert rising_p(rising[::-1]) == rising_p(rising)
    drawn = random.Random(7)
    alike = [rising_p([drawn.random() for _ in range(40)]) or 0 for _ in range(400)]
    assert sum(p < 0.01 for p in alike) <= 12
