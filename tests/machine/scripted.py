"""An engine whose guest is a Python function: for tests of what stands above engines.

It is no model of a processor: a script per hart yields exits and gets their answers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import ClassVar

from tandemu.accel import Capability, Exit, Fence, Interrupted, Vcpu
from tandemu.memory import GuestMemory, RamRegion

Script = Generator[Exit, int | None, None]
"""Yields exits; receives what the board answered the last one with."""

IDLE = Interrupted()
"""Yielded to wait for a kick, as WFI does."""


class ScriptedVcpu:
    """Runs *script*; waits for kicks once it has ended."""

    def __init__(self, index: int, script: Callable[[ScriptedVcpu], Script]) -> None:
        self.index = index
        self.registers: dict[str, int] = {}
        self.interrupts: dict[int, bool] = {}
        self.fences: list[Fence] = []
        self._kicked = threading.Event()
        self._answer: int | None = None
        self._make = script
        self._script: Script | None = None

    def run(self) -> Exit:
        if self._kicked.is_set():
            self._kicked.clear()
            return Interrupted()
        try:
            if self._script is None:
                self._script = self._make(self)
                exit: Exit = next(self._script)
            else:
                exit = self._script.send(self._answer)
        except StopIteration:
            exit = IDLE
        if exit is IDLE:
            self._kicked.wait()
            self._kicked.clear()
        return exit

    def step(self) -> Exit:
        return self.run()

    def complete(self, value: int | None) -> None:
        self._answer = value

    def settle(self) -> Exit | None:
        return None

    def kick(self) -> None:
        self._kicked.set()

    def set_interrupt(self, line: int, level: bool) -> None:
        self.interrupts[line] = level

    def get(self, register: str) -> int:
        return self.registers.get(register, 0)

    def set(self, register: str, value: int) -> None:
        self.registers[register] = value

    def set_many(self, values: Mapping[str, int]) -> None:
        self.registers.update(values)

    def dump(self) -> str:
        return "\n".join(f"{name:>9} {value:016x}" for name, value in self.registers.items())

    @property
    def state_names(self) -> Sequence[str]:
        return tuple(self.registers)

    def translate(self, address: int) -> int | None:
        return address

    def fence(self, fence: Fence) -> None:
        self.fences.append(fence)


class ScriptedVm:
    """An engine; *scripts* has one script a hart, the last one serves all others."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.PROFILE})

    def __init__(self, *scripts: Callable[[ScriptedVcpu], Script]) -> None:
        self.scripts = scripts
        self.memory = GuestMemory()
        self.vcpus: list[ScriptedVcpu] = []
        self.closed = False
        self.starts = 0
        self.standing = False

    def __call__(self, *, isa: str, firmware_calls: bool, notice: object = None) -> ScriptedVm:
        """Stand in for the engine's class: the same object again, emptied."""
        self.memory = GuestMemory()
        self.vcpus.clear()
        self.closed = False
        self.starts += 1
        return self

    def set_memory_slot(self, region: RamRegion) -> None:
        self.memory.add(region)

    def remove_memory_slot(self, base: int) -> None:
        self.memory.remove(base)

    def create_vcpu(self, index: int) -> Vcpu:
        vcpu = ScriptedVcpu(index, self.scripts[min(index, len(self.scripts) - 1)])
        self.vcpus.append(vcpu)
        return vcpu

    def time(self) -> int:
        return 0

    def set_time(self, ticks: int) -> None:
        pass

    def stop_time(self) -> None:
        self.standing = True

    def start_time(self) -> None:
        self.standing = False

    def statistics(self) -> dict[str, int]:
        return {"vcpus": len(self.vcpus)}

    def controllers(self) -> Mapping[str, int]:
        return {}

    def set_controllers(self, values: Mapping[str, int]) -> None:
        pass

    def close(self) -> None:
        self.closed = True
