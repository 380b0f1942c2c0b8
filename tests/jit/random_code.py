"""Random straight-line code over few registers, so that results meet in every place.

The translator keeps the last results in host registers; which of its stencils
an instruction takes depends on what ran before it. Sequences over four or five
registers make every combination soon.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

from tandemu.isa.instruction import Instruction, Kind
from tests.jit.small_machine import DATA, Code, program, random_float, random_value

ADDRESS = 20
"""Register that holds an address in the data window."""
WINDOW = 512
MIDDLE = DATA + WINDOW // 2
REGISTERS = (0, 1, 2, 3, 4, 5)
FLOATS = (0, 1, 2, 3)
UNICORN = frozenset("IMAFD")
"""Extensions that unicorn knows."""
# What a straight line may not hold, or what is not the same everywhere.
_LEFT_OUT = ("ecall", "ebreak", "wfi", "mret", "sret", "fence.i", "fence", "fence.tso", "pause")


@cache
def candidates(xlen: int, kinds: frozenset[Kind]) -> tuple[Instruction, ...]:
    return tuple(
        one
        for one in program(xlen).instructions.records
        if one.kind in kinds
        and one.semantics is not None
        and not one.name.startswith(("csr", "cbo", "sfence", "sinval", "lr.", "sc."))
        and one.name not in _LEFT_OUT
    )


STRAIGHT = frozenset({Kind.STRAIGHT})
MEMORY = frozenset({Kind.LOAD, Kind.STORE, Kind.ATOMIC})


def random_operands(chance: random.Random, one: Instruction) -> dict[str, int]:
    operands: dict[str, int] = {}
    for field in one.fields:
        if field.file == "x":
            operands[field.name] = chance.choice(REGISTERS)
        elif field.file == "f":
            operands[field.name] = chance.choice(FLOATS)
        elif field.name == "rm":
            operands[field.name] = chance.choice((7, 7, 7, 0, 1, 2, 3))
        elif field.name in ("aq", "rl"):
            operands[field.name] = chance.getrandbits(1)
        else:
            free = [value for value in range(1 << field.width) if value not in field.reserved]
            operands[field.name] = chance.choice(free)
    immediate = one.immediate
    if immediate is not None:
        bits = chance.getrandbits(immediate.width)
        if chance.randrange(3) == 0:
            bits = chance.choice((0, 1, 2, 31, (1 << immediate.width) - 1))
        bits &= immediate.value_mask
        if immediate.signed and bits >> (immediate.width - 1):
            bits -= 1 << immediate.width
        operands["imm"] = bits
    if one.kind in (Kind.LOAD, Kind.STORE) and immediate is not None:
        # Anywhere in the window, aligned or not.
        operands["rs1"] = ADDRESS
        operands["imm"] = chance.randrange(-WINDOW // 2, WINDOW // 2 - 8)
    elif one.kind is Kind.ATOMIC:
        operands["rs1"] = ADDRESS
    return operands


def straight_line(
    chance: random.Random, count: int, pool: Sequence[Instruction], code: Code
) -> Code:
    """Append *count* random instructions of *pool*; memory is reached through `ADDRESS`."""
    for _ in range(count):
        one = chance.choice(pool)
        code(one.name, **random_operands(chance, one))
        if chance.randrange(12) == 0:
            code("c.nop")
        if chance.randrange(16) == 0:
            # The base from a result that was made just now.
            code("addi", rd=ADDRESS, rs1=ADDRESS, imm=0)
    return code


def random_registers(chance: random.Random, xlen: int) -> tuple[list[int], list[int]]:
    x = [0, *(random_value(chance, xlen) for _ in range(31))]
    x[ADDRESS] = MIDDLE
    f = [random_float(chance) for _ in range(32)]
    return x, f
