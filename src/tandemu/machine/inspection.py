"""A paused machine's memory and processors, to look at and to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping

from tandemu.accel import AccelError, Vcpu, Vm
from tandemu.machine.errors import MachineError


class MemoryView:
    """Guest-physical memory: ``vm.memory[0x8000_0000:0x8000_0010]`` reads bytes, and takes them.

    An index is one byte. Assigning changes ROM as well. `MachineError` unless the machine is
    paused, and for addresses that are no memory.
    """

    def __init__(self, paused: Callable[[], Vm]) -> None:
        self._paused = paused

    def __getitem__(self, where: int | slice) -> bytes | int:
        start, size = _range(where)
        data = self._paused().memory.read(start, size)
        if data is None:
            raise _no_memory(start, size)
        return data if isinstance(where, slice) else data[0]

    def __setitem__(self, where: int | slice, value: bytes | int) -> None:
        start, size = _range(where)
        data = bytes((value,)) if isinstance(value, int) else bytes(value)
        if len(data) != size:
            raise MachineError(f"{len(data)} bytes for {size} bytes of memory: must be as many")
        if not self._paused().memory.load(start, data):
            raise _no_memory(start, size)


def _range(where: int | slice) -> tuple[int, int]:
    """Start and size of an index or slice."""
    if not isinstance(where, slice):
        return where, 1
    if where.step not in (None, 1) or where.start is None or where.stop is None:
        raise MachineError("a piece of memory is given by its first address and the one behind it")
    return where.start, max(where.stop - where.start, 0)


def _no_memory(start: int, size: int) -> MachineError:
    return MachineError(f"not all of {start:#x} to {start + size - 1:#x} is memory of the machine")


class RegisterView(MutableMapping[str, int]):
    """The registers of a processor by architectural name.

    Iterating gives the names that make up all of its state, in the order to set them in; other
    names the architecture has may be read and written too. `MachineError` unless the machine is
    paused, and for a register there is not.
    """

    def __init__(self, vcpu: Callable[[], Vcpu]) -> None:
        self._vcpu = vcpu

    def __getitem__(self, name: str) -> int:
        try:
            return self._vcpu().get(name)
        except AccelError as error:
            raise MachineError(str(error)) from error

    def __setitem__(self, name: str, value: int) -> None:
        try:
            self._vcpu().set(name, value)
        except AccelError as error:
            raise MachineError(str(error)) from error

    def __delitem__(self, name: str) -> None:
        raise MachineError(f"register {name} cannot be taken away")

    def __iter__(self) -> Iterator[str]:
        return iter(self._vcpu().state_names)

    def __len__(self) -> int:
        return len(self._vcpu().state_names)


class Cpu:
    """One processor of a machine: ``vm.cpus[0].registers["pc"]``."""

    def __init__(
        self, index: int, vcpu: Callable[[], Vcpu], step: Callable[[int, int], None]
    ) -> None:
        self.index, self._step = index, step
        self.registers = RegisterView(vcpu)

    def step(self, count: int = 1) -> None:
        """Carry out *count* instructions, while the machine is paused; the others stand still.

        No interrupt is taken meanwhile, and breakpoints do not count.
        """
        self._step(self.index, count)
