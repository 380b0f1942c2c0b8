"""Random foreign programs do in stencils and in regions what a machine's user mode does.

They fault, and go on behind that with the registers that a handler of signals would see; they
rewrite their own code. The machine's native interpreter, one step at a time, is the oracle.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tandemu.isa.riscv import state as riscv
from tests.jit.optimised import FirstTouch
from tests.jit.random_program import Description, RandomProgram, Shape, descriptions, examples
from tests.jit.small_machine import machine
from tests.jit.user_bed import on_a_machine, user_bed

LIMIT = 400_000
SHAPES = tuple(shape for shape in Shape if shape is not Shape.DEVICE)
LENGTHS = st.lists(st.sampled_from(range(64, 300)), min_size=1, max_size=5)


@examples(20, 4_000)
@given(
    descriptions([(64, riscv.USER)], fuel=150, turns=60, shapes=SHAPES, roundings=range(4)),
    LENGTHS,
    st.sampled_from((1, 1, 2, 3)),
)
def test_stencils_and_regions(description: Description, lengths: list[int], one_in: int) -> None:
    program, bed = RandomProgram(description), user_bed()
    expected = on_a_machine(machine(), program, LIMIT)
    assert bed.run(program, lengths, None) == expected
    regions = FirstTouch(64, one_in=one_in)
    for _ in range(2):
        assert bed.run(program, lengths, regions.touch) == expected
