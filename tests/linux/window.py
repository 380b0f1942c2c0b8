"""Bare code in the window of an engine for programs: no ELF file and no process around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest

from tandemu.accel.user import DirectCall, UserExit
from tandemu.jit.program.user import JitUserCpu, JitUserEngine
from tandemu.linux.memory import Memory
from tests.jit.small_machine import BASE, DATA, PAGE, Code

CODE = BASE
_SIZE = 4 * PAGE
_READ_WRITE_EXECUTE, _FIXED_PRIVATE = 7, 0x32
"""PROT_* and MAP_FIXED | MAP_ANONYMOUS | MAP_PRIVATE."""


class Window:
    """Code at `CODE`, memory at `DATA` and one processor."""

    def __init__(self, calls: Mapping[int, DirectCall]) -> None:
        self.engine = JitUserEngine()
        self.engine.make_directly(calls)
        self.memory = Memory(self.engine)
        for start in (CODE, DATA):
            address = self.memory.map(start, _SIZE, _READ_WRITE_EXECUTE, _FIXED_PRIVATE)
            assert address == start
        self.cpu: JitUserCpu = self.engine.create_cpu()

    def run(self, code: Code) -> UserExit:
        self.memory.write(CODE, code.build())
        self.cpu.state.pc = CODE
        return self.cpu.run()


Open = Callable[[Mapping[int, DirectCall]], Window]


@pytest.fixture
def open_window() -> Iterator[Open]:
    """Makes a window that is closed after the test."""
    made: list[Window] = []

    def create(calls: Mapping[int, DirectCall]) -> Window:
        made.append(Window(calls))
        return made[-1]

    yield create
    for window in made:
        window.engine.close()
