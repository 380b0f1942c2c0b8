"""A vCPU and a VM that only remember: registers, interrupt lines, fences, answers, slots.

They stand in for an engine where a test is about what is asked of one. Guest
code does not run on them; tests with real guests are in tests/machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from tandemu.accel import Capability, Exit, Fence, Interrupted, Vcpu
from tandemu.memory import GuestMemory, RamRegion


class PlainVcpu:
    def __init__(self, index: int) -> None:
        self.index = index
        self.registers: dict[str, int] = {"satp": 0}
        self.lines: dict[int, bool] = {}
        self.fences: list[Fence] = []
        self.answers: list[int | None] = []
        self.page_offset = 0
        """What is added to an address to translate it."""

    def run(self) -> Exit:
        return Interrupted()

    def step(self) -> Exit:
        return Interrupted()

    def complete(self, value: int | None) -> None:
        self.answers.append(value)

    def settle(self) -> Exit | None:
        return None

    def kick(self) -> None:
        pass

    def set_interrupt(self, line: int, level: bool) -> None:
        self.lines[line] = level

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
        return address + self.page_offset

    def fence(self, fence: Fence) -> None:
        self.fences.append(fence)


class PlainVm:
    capabilities: ClassVar[frozenset[Capability]] = frozenset()

    def __init__(self) -> None:
        self.memory = GuestMemory()
        self.now = 1234

    def set_memory_slot(self, region: RamRegion) -> None:
        self.memory.add(region)

    def remove_memory_slot(self, base: int) -> None:
        self.memory.remove(base)

    def create_vcpu(self, index: int) -> Vcpu:
        return PlainVcpu(index)

    def time(self) -> int:
        return self.now

    def set_time(self, ticks: int) -> None:
        self.now = ticks

    def stop_time(self) -> None:
        pass

    def start_time(self) -> None:
        pass

    def statistics(self) -> dict[str, int]:
        return {"vcpus": 1}

    def controllers(self) -> Mapping[str, int]:
        return {}

    def set_controllers(self, values: Mapping[str, int]) -> None:
        pass

    def close(self) -> None:
        pass
