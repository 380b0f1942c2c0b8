"""What a board tells its guest of the processors is what the engine executes."""

from __future__ import annotations

from importlib import import_module

import pytest

from tandemu.accel import Capability
from tandemu.board import RiscvVirt
from tandemu.isa.riscv.instruction_set import BY_XLEN
from tandemu.machine.architectures import choose_board, find_architecture
from tandemu.machine.engines import ENGINES

HINTS = {"zicbop", "zihintpause"}
"""Executed, and not told of: they do nothing here."""


@pytest.mark.parametrize("xlen", [32, 64])
def test_the_device_tree_names_every_extension_of_the_instruction_set(xlen: int) -> None:
    board = choose_board(find_architecture(f"riscv{xlen}"), "", 64 << 20, 1).board
    assert isinstance(board, RiscvVirt) and board.xlen == xlen
    executed = {name.lower() for name in BY_XLEN[xlen].extensions} - {"priv"}
    assert executed - set(board.extensions) == HINTS


def test_what_an_engine_can_do_is_said_before_it_is_loaded_and_true() -> None:
    for engine in ENGINES.values():
        kind = getattr(import_module(engine.module), engine.attribute)
        asked_early = {Capability.CPU_MODELS, Capability.PROFILE}
        assert engine.capabilities == kind.capabilities & asked_early
