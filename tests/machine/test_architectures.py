"""What a board tells its guest of the processors is what the engine executes."""

from __future__ import annotations

from importlib import import_module

from tandemu.accel import Capability
from tandemu.board import RiscvVirt
from tandemu.isa.riscv.instruction_set import RV64GC
from tandemu.machine.architectures import choose_board, find_architecture
from tandemu.machine.engines import ENGINES

HINTS = {"zicbop", "zihintpause"}
"""Executed, and not told of: they do nothing here."""


def test_the_device_tree_names_every_extension_of_the_instruction_set() -> None:
    board = choose_board(find_architecture("riscv64"), "", 64 << 20, 1).board
    assert isinstance(board, RiscvVirt)
    executed = {name.lower() for name in RV64GC.extensions} - {"priv"}
    assert executed - set(board.extensions) == HINTS


def test_what_an_engine_can_do_is_said_before_it_is_loaded_and_true() -> None:
    for engine in ENGINES.values():
        kind = getattr(import_module(engine.module), engine.attribute)
        asked_early = {Capability.CPU_MODELS, Capability.PROFILE}
        assert engine.capabilities == kind.capabilities & asked_early
