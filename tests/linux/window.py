"""Bare code in the window of an engine for programs: no ELF file and no process around it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping

import pytest

from tandemu.accel.user import UserExit
from tandemu.jit.program.user import JitUserCpu, JitUserEngine
from tandemu.linux import host
from tandemu.linux.calls import all_rows
from tandemu.linux.descriptors import WATCHED
from tandemu.linux.memory import Memory
from tandemu.linux.native.image import NativeCalls
from tandemu.linux.native.layout import THREAD
from tests.jit.small_machine import BASE, DATA, PAGE, Code

CODE = BASE
_SIZE = 4 * PAGE
_READ_WRITE_EXECUTE, _FIXED_PRIVATE = 7, 0x32
"""PROT_* and MAP_FIXED | MAP_ANONYMOUS | MAP_PRIVATE."""


class Window:
    """Code at `CODE`, memory at `DATA`, one processor, and native calls by their numbers."""

    def __init__(self, calls: Mapping[int, str]) -> None:
        self.engine = JitUserEngine()
        self.native = NativeCalls(all_rows(), "riscv64", self.engine.copy_routine)
        self.engine.make_natively(
            {number: self.native.address(name) for number, name in calls.items()}
        )
        self.engine.take_signals(
            self.native.helper_address("settle"), self.native.helper_address("handle_signal")
        )
        self.memory = Memory(self.engine, self.native)
        process = self.native.process
        process.base, process.limit = self.memory.base, self.memory.limit
        process.lowest_hidden = WATCHED
        self._watched = ctypes.create_string_buffer(WATCHED)
        process.watched = ctypes.addressof(self._watched)
        for start in (CODE, DATA):
            address = self.memory.map(start, _SIZE, _READ_WRITE_EXECUTE, _FIXED_PRIVATE)
            assert address == start
        self.cpu: JitUserCpu = self.engine.create_cpu()
        self._thread = ctypes.create_string_buffer(THREAD.size)
        address = ctypes.addressof(self._thread)
        self.thread = thread = THREAD.at(address)
        thread.self, thread.process = address, self.native.process_address
        thread.request = self.cpu.request_address
        thread.state = ctypes.addressof(self.cpu.state)
        self.cpu.set_call_context(address)
        host.set_thread_pointer(address)

    def run(self, code: Code) -> UserExit:
        self.memory.write(CODE, code.build())
        self.cpu.state.pc = CODE
        return self.cpu.run()


Open = Callable[[Mapping[int, str]], Window]


@pytest.fixture
def open_window() -> Iterator[Open]:
    """Makes a window that is closed after the test."""
    made: list[Window] = []

    def create(calls: Mapping[int, str]) -> Window:
        made.append(Window(calls))
        return made[-1]

    yield create
    for window in made:
        window.engine.close()
