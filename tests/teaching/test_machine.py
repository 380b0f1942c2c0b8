"""A second guest under the translator: the teaching architecture as a machine.

Random programs do the same evaluated, stepped, in stencils and in regions, wherever they are cut.
"""

from __future__ import annotations

from functools import cache

import pytest

from tests.long import LONG
from tests.teaching.machine import TeachingMachine, random_program

SEEDS = range(400) if LONG else range(6)
EVALUATED = range(60) if LONG else range(2)


@cache
def machine() -> TeachingMachine:
    return TeachingMachine()


def begin(seed: int, user: bool) -> TeachingMachine:
    m = machine()
    m.reset(random_program(seed, user=user))
    m.cpu.pc = 0x100
    return m


@pytest.mark.parametrize("user", [False, True], ids=["kernel", "user"])
def test_stencils_and_regions_do_what_the_interpreter_does(user: bool) -> None:
    regions = 0
    for seed in SEEDS:
        m = begin(seed, user)
        expected = m.step(), m.snapshot()
        for length in (37, 1000) if LONG else (37,):
            m = begin(seed, user)
            assert (m.run(length), m.snapshot()) == expected, f"stencils, {seed}"
        for level in (1, 2) if LONG else (1 + seed % 2,):
            m = begin(seed, user)

            def touch(m: TeachingMachine = m, level: int = level) -> None:
                nonlocal regions
                regions += m.optimise(level)

            assert (m.run(41, touch), m.snapshot()) == expected, f"regions, {seed}, {level}"
    assert regions > 20


@pytest.mark.parametrize("user", [False, True], ids=["kernel", "user"])
def test_the_evaluator_does_too(user: bool) -> None:
    for seed in EVALUATED:
        m = begin(seed, user)
        expected = m.step(), m.snapshot()
        m = begin(seed, user)
        assert (m.evaluate(), m.snapshot()) == expected, seed
