"""A vCPU of the translator: `accel.Vcpu` over the generated code."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tandemu.accel import (
    AccelError,
    BreakpointHit,
    Exit,
    Fence,
    FirmwareCall,
    Interrupted,
    MmioRead,
    MmioWrite,
    Stopped,
    Unsupported,
    WatchpointHit,
)
from tandemu.bits import mask
from tandemu.isa import effects
from tandemu.isa.errors import IsaError
from tandemu.jit.engine.cpu import TranslatedCpu
from tandemu.jit.regions.installer import Place
from tandemu.jit.regions.request import Region, RegionKind
from tandemu.jit.shared.layout import (
    EXIT_BREAK,
    EXIT_FIRMWARE,
    EXIT_HOT,
    EXIT_INTERRUPTED,
    EXIT_LIMIT,
    EXIT_READ,
    EXIT_SOFTWARE,
    EXIT_WAIT,
    EXIT_WATCH,
    EXIT_WRITE,
    FETCH_ENTRY,
    INVALID,
    NANOSECONDS_PER_TICK,
    REQUEST_FENCE,
    REQUEST_KICK,
    REQUEST_REGION,
    RESPONSE_FAULT,
    RESPONSE_VALUE,
    WATCHES_READ,
    WATCHES_WRITE,
)
from tandemu.memory.layout import PAGE_SIZE

if TYPE_CHECKING:
    from tandemu.jit.machine.vm import JitVm

_REQUESTS = REQUEST_KICK | REQUEST_FENCE | REQUEST_REGION
_LONGEST_WAIT_S = 1.0
_UNTIL_EXACT = 1 << 14
"""More instructions than the path through a region's loop has, but for loops inside it."""
_DUMPED_IN_A_LINE = 4


class JitVcpu(TranslatedCpu):
    """One hart. All but `kick`, `set_interrupt` and `fence` belongs to the thread that runs it."""

    def __init__(self, vm: JitVm, index: int) -> None:
        engine = vm.engine
        super().__init__(engine, vm.address, vm.cache)
        self._isa = engine.isa
        self._control = engine.isa.control
        self.index = index
        self._vm = vm
        self._step = engine.routine("step", 3)
        self._settle = engine.routine("settle", 1)
        self._set_interrupt = engine.routine("set_interrupt", 3)
        self._take_message = engine.routine("take_message", 2)
        self._physical_address = engine.routine("physical_address", 2)
        # A lock that whoever wakes it opens: it waits by the microsecond and is no descriptor.
        self._bell = threading.Lock()
        self._bell.acquire()
        self._closed = False
        self._waiting = False
        self._inside = False
        self._fences: deque[Fence | None] = deque()
        """What other threads ask for; None: forget all address translations."""
        self._kicked = False
        self.waits = 0
        self._watched: WatchpointHit | None = None
        """A watched access of the instruction at hand, which is being carried out."""
        self._fetch = engine.routine("fetch", 2)
        self.regions = vm.regions
        self.reset()

    def reset(self) -> None:
        """Put the vCPU into the state after reset; every translation is forgotten."""
        self._begin_anew()
        self.cache.flush()
        cpu, vm = self.cpu, self._vm
        cpu.slice_length = self.regions.slice_length
        self._control.reset(cpu, self.index, firmware_calls=vm.firmware_calls)
        cpu.effects = effects.MODE | effects.FLUSH_ALL
        cpu.slice_limit = mask(63)

    # Running -----------------------------------------------------------------------------

    def run(self) -> Exit:
        """Run guest code until an exit."""
        while True:
            if self._fences:
                self._carry_out_fences()
            if self.regions.ready:
                self.regions.install_ready(self, self)
            if self._watched is not None:
                return self._pass_watch()
            if self._kicked:
                self._kicked = False
                return Interrupted()
            self._inside = True
            kind = self._enter(self.address)
            self._inside = False
            leaving = self._exit(kind)
            if leaving is not None:
                return leaving

    def _exit(self, kind: int) -> Exit | None:
        """Turn an exit of generated code into ours; None: handled, go on."""
        cpu, posted = self.cpu, self._vm.posted
        if posted is not None and posted.waiting:
            # What the guest wrote before it left comes before the reason why it left.
            posted.drain()
        if kind == EXIT_READ:
            return MmioRead(cpu.exit_address, cpu.exit_size)
        if kind == EXIT_WRITE:
            address, size = cpu.exit_address, cpu.exit_size
            if posted is not None and posted.address == address:
                posted.wrote()
            return MmioWrite(address, size, cpu.exit_value & ((1 << 8 * size) - 1))
        if kind == EXIT_WAIT:
            self._wait()
            return None
        if kind == EXIT_INTERRUPTED:
            # The flag goes before what it stands for is looked at: whoever sets it
            # does so after. One that comes late costs a turn, none is lost.
            self._change_request(self.address, 0, _REQUESTS)
            return None
        if kind == EXIT_FIRMWARE:
            return FirmwareCall()
        if kind == EXIT_SOFTWARE:
            self._vm.run_in_software(self)
            return None
        if kind == EXIT_HOT:
            self.regions.hot(self, self)
            return None
        if kind == EXIT_LIMIT:
            return Stopped(cpu.pc)
        if kind == EXIT_BREAK:
            return BreakpointHit(cpu.pc)
        if kind == EXIT_WATCH:
            accesses = cpu.exit_value
            self._watched = WatchpointHit(
                *(cpu.pc, cpu.exit_address, cpu.exit_size),
                reads=bool(accesses & WATCHES_READ),
                writes=bool(accesses & WATCHES_WRITE),
            )
            cpu.watch_passed = 1
            return self._after_watch(self._exit(self._step(self.address, 1, 0)))
        return Unsupported(kind, f"the translator left with unknown reason {kind}")

    def step(self, *, interrupts: bool = True) -> Exit:
        """Run exactly one instruction; `Stopped` when nothing else happened."""
        if self._fences:
            self._carry_out_fences()
        if self._watched is not None:
            return self._pass_watch()
        leaving = self._exit(self._step(self.address, 1, int(interrupts)))
        return Stopped(self.cpu.pc) if leaving is None else leaving

    def settle(self) -> Exit | None:
        """Finish the access that was answered; see `accel.Vcpu.settle`."""
        while kind := self._settle(self.address):
            leaving = self._exit(kind)
            if isinstance(leaving, MmioRead | MmioWrite):
                return None  # nothing of it is done: it will be asked for again
            if leaving is not None:
                return leaving
        if self.cpu.inexact:
            # A region that is left where its loop closes may leave old values in registers that
            # the code overwrites before it reads them. Run on until it has, one by one.
            self.cpu.inexact = 0
            leaving = self._exit(self._step(self.address, _UNTIL_EXACT, 0))
            return None if isinstance(leaving, Stopped | MmioRead | MmioWrite) else leaving
        return None

    def _pass_watch(self) -> Exit:
        """Finish the access, of a device, that is watched."""
        return self._after_watch(self.settle())

    def _after_watch(self, exit: Exit | None) -> Exit:
        """What to tell of a watched access: *exit* first, if that has to be answered."""
        if isinstance(exit, MmioRead | MmioWrite):
            return exit
        watched, self._watched = self._watched, None
        self.cpu.watch_passed = 0
        assert watched is not None
        return watched._replace(pc=self.cpu.pc)

    def complete(self, value: int | None) -> None:
        """Answer the last `MmioRead` or `MmioWrite`; None raises the guest's bus error."""
        cpu = self.cpu
        if value is None:
            cpu.response_state = RESPONSE_FAULT
        else:
            cpu.response_state = RESPONSE_VALUE
            cpu.response_value = value

    def limit_instructions(self, count: int | None) -> None:
        """Stop (`Stopped`) at the first slice that ends after *count* more instructions and traps.

        A guest in an endless loop of traps retires no instruction: its traps count here.
        """
        done = self.cpu.instructions + self.cpu.traps
        self.cpu.slice_limit = mask(63) if count is None else done + count

    # From any thread ---------------------------------------------------------------------

    def kick(self) -> None:
        """Make `run` return `Interrupted` soon. Any thread; not lost if not running."""
        self._kicked = True
        self._change_request(self.address, REQUEST_KICK, 0)
        self.wake()

    def set_interrupt(self, line: int, level: bool) -> None:
        """Set an interrupt input: *line* is its bit (RISC-V: in ``mip``). Any thread."""
        self._set_interrupt(self.address, 1 << line, level)
        if level:
            self.wake()

    def take_message(self, number: int) -> None:
        """Take a message (RISC-V: the identity of an incoming MSI). Any thread."""
        self._take_message(self.address, number)
        self.wake()

    def fence(self, fence: Fence) -> None:
        """Have this vCPU carry out *fence* before its next guest instruction. Any thread."""
        self._request_fence(fence)

    def forget_translations(self) -> None:
        """Have this vCPU forget all address translations: memory slots changed. Any thread."""
        self._request_fence(None)

    def _request_fence(self, fence: Fence | None) -> None:
        self._fences.append(fence)
        self._change_request(self.address, REQUEST_FENCE, 0)
        while self._inside and self._fences:
            time.sleep(0)

    def wake(self) -> None:
        """Have it look again at what it waits for, if it waits. Any thread."""
        if self._waiting:
            with contextlib.suppress(RuntimeError):  # it has been rung already
                self._bell.release()

    # Inside ------------------------------------------------------------------------------

    def _carry_out_fences(self) -> None:
        cpu = self.cpu
        engine = self._vm.engine
        pages = 0
        while self._fences:
            fence = self._fences.popleft()
            if fence is None:
                engine.routine("flush_translations", 2)(self.address, 1)
            elif fence.instructions:
                cpu.effects |= effects.INSTRUCTIONS
            elif fence.size and pages + fence.size // 4096 < 64:
                flush_page = engine.routine("flush_page", 2)
                for address in range(fence.start & -4096, fence.start + fence.size, 4096):
                    flush_page(self.address, address & mask(64))
                    pages += 1
            else:
                engine.routine("flush_translations", 2)(self.address, 1)

    def _wait(self) -> None:
        """Sleep until an interrupt is pending, a timer is due or somebody kicks."""
        self.waits += 1
        self._waiting = True
        try:
            cpu = self.cpu
            if cpu.request or self._control.is_pending(cpu):
                return
            ticks = self._control.deadline(cpu) - self._vm.time()
            seconds = min(ticks * NANOSECONDS_PER_TICK / 1e9, _LONGEST_WAIT_S)
            if seconds > 0:
                self._bell.acquire(timeout=seconds)
        finally:
            self._waiting = False
            # An early wake-up goes back to sleep: the wait is not over by itself.
            self.cpu.effects |= effects.WAIT

    # Regions -----------------------------------------------------------------------------

    def place(self, pc: int) -> Place | None:
        """What kind of code is at *pc*, and where (`installer.GuestCode`)."""
        entry = self._fetch(self.address, pc)
        # A region would run on into a part of the page that may not be fetched.
        if not entry or FETCH_ENTRY.at(entry).tag == INVALID:
            return None
        kind = RegionKind(self._isa.name, False, self._control.context(self.cpu))
        return Place(kind, pc, FETCH_ENTRY.at(entry).physical + pc % PAGE_SIZE)

    def code(self, place: Place) -> dict[int, bytes]:
        """The page of *place*."""
        entry = self._fetch(self.address, place.pc)
        if not entry:
            return {}
        return {place.pc & -PAGE_SIZE: ctypes.string_at(FETCH_ENTRY.at(entry).host, PAGE_SIZE)}

    def spares_a_processor(self) -> bool:
        """Whether this process may use more processors than there are vCPUs."""
        return len(os.sched_getaffinity(0)) > len(self._vm.vcpus)

    def is_debugged(self, region: Region) -> bool:
        """Whether there is a breakpoint in the code of *region* (`installer.GuestCode`)."""
        return self._vm.debugging.cover(region.extents)

    def translate(self, address: int) -> int | None:
        """Where a load from *address* would go now; None if it would trap. Its own thread."""
        physical = self._physical_address(self.address, address) & mask(64)
        return None if physical == INVALID else physical

    # Registers ---------------------------------------------------------------------------

    def get(self, register: str) -> int:
        """Return a register by its architectural name."""
        value = self._control.get(self.cpu, register)
        if value is not None:
            return value
        if register == self._control.clock:
            return self._vm.time()
        try:
            return int(self._vm.registers.read_register(self.cpu, register))
        except IsaError as error:
            raise AccelError(str(error)) from error

    def set(self, register: str, value: int) -> None:
        """Set a register by its architectural name."""
        if self._control.set(self.cpu, register, value, self._change_inputs):
            if self._control.ends_wait(register):
                # Any thread may set a timer; the slice that runs notices at its end.
                self.wake()
        else:
            try:
                self._vm.registers.write_register(self.cpu, register, value)
            except IsaError as error:
                raise AccelError(str(error)) from error

    def set_many(self, values: Mapping[str, int]) -> None:
        """Set registers in this order; what is the same already is left alone."""
        for name, value in values.items():
            if self.get(name) != value:
                self.set(name, value)

    @property
    def state_names(self) -> Sequence[str]:
        """See `accel.Vcpu.state_names`."""
        return self._control.state_names

    def _change_inputs(self, bits: int, level: bool) -> None:
        self._set_interrupt(self.address, bits, level)

    def dump(self) -> str:
        """The registers as text, for people."""
        digits = self._isa.state.address_bits // 4
        cells = [f"{name:>9} {self.get(name):0{digits}x}" for name in self._control.dumped]
        starts = range(0, len(cells), _DUMPED_IN_A_LINE)
        return "\n".join("".join(cells[start:][:_DUMPED_IN_A_LINE]) for start in starts)

    def statistics(self) -> dict[str, int]:
        """What this vCPU has done, by name of the counter."""
        return {**self.counters(), "waits": self.waits}

    def close(self) -> None:
        """The end: its memory goes with this object."""
        if self._closed:
            raise AccelError("this vCPU is closed")
        self._closed = True
