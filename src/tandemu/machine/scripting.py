"""The debugger in Python: ``vm.debug.run_to("start_kernel")``.

One machine has one debugger. Use this, or GDB, at a time: each sets what the engine stops at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableSet
from typing import TYPE_CHECKING

from tandemu.accel import Watch
from tandemu.debug import DebugError
from tandemu.debug.target import Cause, Stop
from tandemu.machine.errors import MachineError, MachineTimeout

if TYPE_CHECKING:
    from tandemu.guests.symbols import SymbolTable
    from tandemu.machine.debugging import MachineDebugger

Where = int | str
"""An address, or the name of a symbol."""


class Breakpoints(MutableSet[int]):
    """Addresses that the machine comes to rest before; names of symbols can be added too."""

    def __init__(
        self, debugger: Callable[[], MachineDebugger], address: Callable[[Where], int]
    ) -> None:
        self._debugger, self._address = debugger, address
        self._set: set[int] = set()

    def __contains__(self, where: object) -> bool:
        return where in self._set

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._set))

    def __len__(self) -> int:
        return len(self._set)

    def add(self, where: Where) -> None:
        """Stop at *where* from now on. `MachineError` unless the machine is paused."""
        self._put(self._set | {self._address(where)})

    def discard(self, where: Where) -> None:
        """Stop there no more."""
        self._put(self._set - {self._address(where)})

    def _put(self, wanted: set[int]) -> None:
        with told():
            self._debugger().set_breakpoints({address: () for address in wanted})
        self._set = wanted


class told:
    """Turns a `DebugError` into a `MachineError`."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, DebugError):
            raise MachineError(str(error)) from error


class Debugging:
    """What a script does with a machine that it debugs. All but `wait` needs it paused."""

    def __init__(self, debugger: Callable[[], MachineDebugger]) -> None:
        self._debugger = debugger
        self._symbols: SymbolTable | None = None
        self._watches: list[Watch] = []
        self.breakpoints = Breakpoints(debugger, self.address)

    def load_symbols(self, path: str) -> None:
        """Take names from an ELF file, or a list such as System.map or /proc/kallsyms."""
        from tandemu.guests import GuestError
        from tandemu.guests.symbols import read_symbols

        try:
            self._symbols = read_symbols(path, data=True)
        except GuestError as error:
            raise MachineError(str(error)) from error

    def address(self, where: Where) -> int:
        """The address of a symbol; an address stays what it is."""
        if isinstance(where, int):
            return where
        found = None if self._symbols is None else self._symbols.address(where)
        if found is None:
            hint = (
                "load_symbols(path) first" if self._symbols is None else "it names no such symbol"
            )
            raise MachineError(f"the address of {where!r} is not known: {hint}")
        return found

    def name(self, address: int) -> str | None:
        """The symbol that *address* lies in, with the distance from its start."""
        return None if self._symbols is None else self._symbols.name(address)

    def read(self, where: Where, size: int, cpu: int = 0) -> bytes:
        """Memory as processor *cpu* sees it, by virtual address; as much as is mapped."""
        with told():
            return self._debugger().read_memory(cpu + 1, self.address(where), size)

    def write(self, where: Where, data: bytes, cpu: int = 0) -> None:
        """Change memory by virtual address, code too."""
        with told():
            self._debugger().write_memory(cpu + 1, self.address(where), data)

    def translate(self, where: Where, cpu: int = 0) -> int | None:
        """The guest-physical address of a virtual one; None if it is not mapped."""
        with told():
            return self._debugger().translate(cpu + 1, self.address(where))

    def command(self, line: str) -> str:
        """Carry out a command of ``monitor``, such as ``info mem``; what it answers."""
        return self._debugger().command(line)

    def watch(self, where: Where, size: int, *, reads: bool = False, writes: bool = True) -> None:
        """Come to rest behind what accesses these bytes, by virtual address."""
        start = self.address(where)
        wanted = [*self._watches, Watch(start, start + size - 1, reads, writes)]
        with told():
            self._debugger().set_watches(wanted)
        self._watches = wanted

    def unwatch(self) -> None:
        """Watch nothing any more."""
        with told():
            self._debugger().set_watches(())
        self._watches = []

    def step(self, cpu: int = 0, count: int = 1) -> None:
        """Have one processor carry out *count* instructions; no interrupt is taken meanwhile."""
        with told():
            self._debugger().step(cpu + 1, count)

    def go_on(self, timeout: float | None = None) -> Stop:
        """Let the machine run to the next breakpoint or watched access, or its end.

        `MachineTimeout` if there is none within *timeout* seconds: the machine is paused then.
        """
        debugger = self._debugger()
        with told():
            debugger.go_on({}, debugger.threads())
            try:
                return debugger.wait(timeout)
            except MachineTimeout:
                debugger.machine.pause()
                raise

    def run_to(self, where: Where, timeout: float | None = None) -> Stop:
        """Let the machine run until a processor is about to carry out what stands at *where*.

        `MachineError` if it ended before, or came to something else that was set.
        """
        address = self.address(where)
        fresh = address not in self.breakpoints
        if fresh:
            self.breakpoints.add(address)
        try:
            stop = self.go_on(timeout)
        finally:
            if fresh and self._debugger().machine.paused:
                self.breakpoints.discard(address)
        machine = self._debugger().machine
        if stop.cause is Cause.ENDED:
            raise MachineError(f"the machine ended before it came to {where!r}")
        if machine.cpus[stop.thread - 1].registers[self._debugger().architecture.pc] != address:
            raise MachineError(f"the machine stopped elsewhere before it came to {where!r}: {stop}")
        return stop
