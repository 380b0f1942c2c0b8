"""Doubles of a program's regions: NaNs are made canonical where they are seen, and not before."""

from __future__ import annotations

import random

import pytest

from tandemu.accel.user import Breakpoint
from tests.jit.random_code import (
    ADDRESS,
    MEMORY,
    STRAIGHT,
    WINDOW,
    candidates,
    random_registers,
    straight_line,
)
from tests.jit.small_machine import DATA, Code
from tests.linux.window import CODE, Open, Window, open_window

__all__ = ["open_window"]

TURNS = 3000
COUNTER, PARITY = 30, 29


def blocks(chance: random.Random) -> Code:
    """A loop in which doubles go from block to block, some by either of two ways."""
    pool = [one for one in candidates(64, STRAIGHT | MEMORY) if one.floating]
    code = Code(CODE).li(COUNTER, TURNS).label("again")
    straight_line(chance, 6, pool, code)
    code("andi", rd=PARITY, rs1=COUNTER, imm=3)("beq", to="other", rs1=PARITY, rs2=0)
    straight_line(chance, 4, pool, code)
    code.label("other")
    straight_line(chance, 4, pool, code)
    return code("addi", rd=COUNTER, rs1=COUNTER, imm=-1)("bne", to="again", rs1=COUNTER, rs2=0)(
        "ebreak"
    )


def outcome(window: Window, seed: int) -> tuple[list[int], list[int], int, bytes]:
    chance = random.Random(seed)
    code = blocks(chance)
    x, f = random_registers(chance, 64)
    state = window.cpu.state
    state.x[0:32] = x
    state.f[0:32] = f
    window.memory.write(DATA, chance.randbytes(WINDOW))
    assert window.run(code) == Breakpoint()
    memory = window.memory.read(DATA, WINDOW)
    return list(state.x[1:ADDRESS]), list(state.f[0:32]), state.fflags, memory


@pytest.mark.parametrize("seed", range(12))
def test_regions_give_what_stencils_give(
    open_window: Open, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    results = []
    for word in ("off", "stress"):
        monkeypatch.setenv("TANDEMU_OPTIMISER", word)
        window = open_window({})
        results.append(outcome(window, seed))
    assert results[0] == results[1]
    assert window.engine.statistics()["regions"]
