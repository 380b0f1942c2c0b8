"""Random programs do the same evaluated, in stencils and in regions, wherever they are cut.

Loops, calls, accesses that fault, interrupts, code that rewrites itself: `random_program`.
With ``TANDEMU_LONG`` set there are other programs every time, and many more of them.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.jit.followed import SHORTEST, Cut, Oracle, Run
from tests.jit.optimised import FirstTouch
from tests.jit.random_program import (
    SOFTWARE_INTERRUPT,
    TIMER_INTERRUPT,
    Description,
    RandomProgram,
    descriptions,
    examples,
)
from tests.jit.small_machine import machine

LIMIT = 400_000

CUTS = st.lists(
    st.builds(
        Cut,
        length=st.sampled_from(range(SHORTEST, 3 * SHORTEST)),
        least=st.sampled_from(range(1, 6 * SHORTEST)),
        interrupt=st.sampled_from((0, SOFTWARE_INTERRUPT, TIMER_INTERRUPT)),
    ),
    min_size=1,
    max_size=12,
)
Regions = tuple[tuple[int, ...], int]
REGIONS = st.tuples(st.sampled_from(((1,), (2,), (1, 2))), st.sampled_from((1, 1, 2, 3)))
"""Arguments of `FirstTouch`: levels, and how many blocks there are for each region."""


def compare(program: RandomProgram, cuts: list[Cut], regions: Regions, *, evaluated: bool) -> None:
    """Run a program with regions, twice, and in stencils; the oracle knows what is right."""
    xlen = program.description.xlen
    m, first_touch = machine(xlen), FirstTouch(xlen, *regions)

    def optimised() -> Run:
        run = Run(m, program, LIMIT)
        run.run_freely(cuts, lambda: first_touch.touch(m.vcpu))
        return run

    first = optimised()
    oracle = Oracle(m, program, first.interrupts, evaluated=evaluated, limit=LIMIT)
    oracle.check(first)
    stencils = Run(m, program, LIMIT)
    stencils.run_to(oracle.interrupts, [cut.length for cut in cuts])
    oracle.check(stencils)
    # Now the regions are there before the code runs: it may stop elsewhere.
    again = optimised()
    if again.interrupts != oracle.interrupts:
        oracle = Oracle(m, program, again.interrupts, evaluated=False, limit=LIMIT)
    oracle.check(again)


@examples(15, 1_500)
@given(descriptions(fuel=30, turns=5), CUTS, REGIONS)
def test_evaluated(description: Description, cuts: list[Cut], regions: Regions) -> None:
    compare(RandomProgram(description), cuts, regions, evaluated=True)


@examples(20, 4_000)
@given(descriptions(fuel=200, turns=60), CUTS, REGIONS)
def test_stepped(description: Description, cuts: list[Cut], regions: Regions) -> None:
    """Longer ones, against the native interpreter."""
    compare(RandomProgram(description), cuts, regions, evaluated=False)
