"""The translator for one foreign program: `accel.user.UserEngine`.

The guest's memory is a reserved window of the host's address space; a guest
access is one host access. The host's SIGSEGV handler is generated code that
knows translated code; every other fault has the effect it always had.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tandemu.accel.errors import AccelError
from tandemu.accel.user import (
    Breakpoint,
    CodePage,
    DescriptorKeeper,
    IllegalInstruction,
    Kicked,
    MemoryFault,
    Misaligned,
    SignalDue,
    SystemCall,
    UserExit,
)
from tandemu.bits import mask
from tandemu.isa.catalogue import find_isa
from tandemu.jit.engine.breakpoints import DebugTables
from tandemu.jit.engine.code_cache import CodeCache
from tandemu.jit.engine.cpu import TranslatedCpu
from tandemu.jit.engine.load import Engine, engine_code
from tandemu.jit.regions.installer import Place, RegionInstaller
from tandemu.jit.regions.request import Region, RegionKind
from tandemu.jit.regions.service import OPEN_DESCRIPTORS, RegionService, region_service
from tandemu.jit.regions.settings import optimiser_settings
from tandemu.jit.shared.layout import (
    EXIT_HOT,
    EXIT_INTERRUPTED,
    EXIT_SOFTWARE,
    EXIT_TRAP,
    FETCH_CHECK,
    MACHINE,
    MACHINE_SYMBOL,
    REQUEST_KICK,
    REQUEST_REGION,
    SIGNAL_DUE,
    VCPU_LIMIT,
)
from tandemu.memory.layout import PAGE_SHIFT, PAGE_SIZE

# Loaded by whoever wants one.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from tandemu.accel.profile import Profile

WINDOW_SIZE = 1 << 38
"""What Linux gives a RISC-V program under Sv39."""

_SIGSEGV, _SIGBUS = 11, 7
_SA_SIGINFO, _SA_NODEFER, _SA_RESTART = 4, 0x40000000, 0x10000000
_PROT_NONE, _MAP_PRIVATE, _MAP_ANONYMOUS, _MAP_NORESERVE = 0, 2, 0x20, 0x4000

_CODE_PAGES = 16
"""A region stays within so many pages of its entry."""
_SLICE = 1 << 16
"""Instructions between two looks at requests: some 50 µs."""
_THRESHOLD = 32
"""Slices that end at a block before it is hot: two million instructions."""
_PATIENCE, _PATIENCE_FOR_ONE = 1 << 12, 1 << 8
"""Slices before the compiler is started: some 0.1 s. And the same if one block stands out."""
_REQUESTS = REQUEST_KICK | REQUEST_REGION

_SYSTEM_CALL, _KICKED, _BREAKPOINT = SystemCall(), Kicked(), Breakpoint()
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
"""A program that forks must not share the engine's tables with its child."""


def _reserve(size: int) -> int:
    """Reserve *size* bytes of the host's addresses; nothing may be accessed there yet."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    flags = _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE
    address = libc.mmap(None, size, _PROT_NONE, flags, -1, 0)
    if address in (None, mask(64)):
        raise AccelError(
            f"the host does not reserve {size >> 30} GiB of addresses for the program: "
            "raise the limit on address space (ulimit -v unlimited)"
        )
    return int(address)


class _SigAction(ctypes.Structure):
    """The C library's struct sigaction on x86-64 Linux."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


_process_vm_readv = ctypes.CDLL(None).process_vm_readv
_process_vm_readv.restype = ctypes.c_ssize_t
_process_vm_readv.argtypes = (
    *(ctypes.c_int, ctypes.POINTER(_Vector), ctypes.c_ulong),
    *(ctypes.POINTER(_Vector), ctypes.c_ulong, ctypes.c_ulong),
)


class JitUserEngine:
    """The window, the shared structure and the processors of one program."""

    size = WINDOW_SIZE

    def __init__(
        self, isa: str = "riscv64", *, notice: Callable[[str], None] | None = None
    ) -> None:
        self.isa = find_isa(isa)
        self._machine_memory = mmap.mmap(-1, MACHINE.size, flags=_PRIVATE)
        self._machine: Any = MACHINE.over(self._machine_memory)
        machine = ctypes.addressof(self._machine)
        code = engine_code(self.isa, flat=True, notice=notice)
        self._engine = Engine(self.isa, code, {MACHINE_SYMBOL: machine})
        self.base = _reserve(WINDOW_SIZE + PAGE_SIZE)
        self._executable = mmap.mmap(-1, WINDOW_SIZE >> PAGE_SHIFT, flags=_PRIVATE)
        self.debugging = DebugTables(self._machine)
        self._machine.window, self._machine.window_size = self.base, WINDOW_SIZE
        self._machine.executable = ctypes.addressof(ctypes.c_char.from_buffer(self._executable))
        self.code_page: Callable[[int], CodePage] = self._readable
        """What may be fetched at an address; asked once a page until it changes."""
        self.changeable: set[int] = set()
        """Pages from which code was fetched that the program may write over."""
        self.optimiser = optimiser_settings(_THRESHOLD, _SLICE, _PATIENCE, _PATIENCE_FOR_ONE)
        self.descriptors: DescriptorKeeper = OPEN_DESCRIPTORS
        self.precise = False
        """Whether registers are in memory when an access is refused (`be_precise`)."""
        self.fork_note = ctypes.c_uint32(0)
        """Not 0 in a process that Python does not know to be another one."""
        self.adopt_fork: Callable[[], None] = _do_nothing
        self.forbid_forks: Callable[[], None] = _do_nothing
        self._cpus: dict[int, JitUserCpu] = {}
        """By their place among the vCPUs that generated code looks at."""
        self._free: list[int] = []
        """Places of threads that have ended."""
        self._changes = 0
        """How often it was told that code is another one or gone."""
        self.cache = CodeCache(self._engine, machine)
        self._machine.code_cache = self.cache.address
        self._forget_page = self._engine.routine("forget_page", 3)
        self.installer = RegionInstaller(self.cache, self.optimiser, self.regions)
        self._catch_faults()

    def _catch_faults(self) -> None:
        action = _SigAction()
        action.handler = self._engine.image.address("handle_fault")
        # The system calls of other libraries start anew; ours may nest.
        action.flags = _SA_SIGINFO | _SA_NODEFER | _SA_RESTART
        libc = ctypes.CDLL(None, use_errno=True)
        for signal in (_SIGSEGV, _SIGBUS):
            if libc.sigaction(signal, ctypes.byref(action), None):
                raise AccelError(f"no handler for signal {signal}: errno {ctypes.get_errno()}")

    def _readable(self, address: int) -> CodePage:
        """Code that may change, wherever the host lets a byte be read."""
        return CodePage.CHANGEABLE if self._read(address, 1) else CodePage.NONE

    def _read(self, address: int, size: int) -> bytes:
        """Up to *size* bytes of guest memory: fewer where it is not mapped.

        The kernel reads it for us, on ourselves. It lets a process that has given up its
        privileges do so still, unlike /proc/self/mem.
        """
        data = ctypes.create_string_buffer(size)
        here = _Vector(ctypes.addressof(data), size)
        there = _Vector(self.base + address, size)
        got = _process_vm_readv(os.getpid(), ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
        return data.raw[: max(got, 0)]

    def may_execute(self, address: int) -> bool:
        """Ask `code_page` about the page of *address*, and remember a yes."""
        page = address & -PAGE_SIZE
        changes = self._changes
        kind = self.code_page(address) if 0 <= page < WINDOW_SIZE else CodePage.NONE
        if kind is CodePage.NONE:
            return False
        with self.cache.held():
            # What has changed meanwhile is asked for again.
            if changes == self._changes:
                if kind is CodePage.CHANGEABLE:
                    self.changeable.add(page)
                self._executable[page >> PAGE_SHIFT] = 1
        return True

    def code_around(self, address: int) -> dict[int, bytes]:
        """The pages near *address* from which code was fetched, by address."""
        middle = address >> PAGE_SHIFT
        pages: dict[int, bytes] = {}
        for page in range(max(0, middle - _CODE_PAGES), middle + _CODE_PAGES + 1):
            if page < WINDOW_SIZE >> PAGE_SHIFT and self._executable[page]:
                data = self.read_page(page << PAGE_SHIFT)
                if data is not None:
                    pages[page << PAGE_SHIFT] = data
        return pages

    def read_page(self, page: int) -> bytes | None:
        """The bytes of a page; None if it is not mapped any more."""
        data = self._read(page, PAGE_SIZE)
        return data if len(data) == PAGE_SIZE else None

    @property
    def copy_routine(self) -> int:
        """Host address of `copy_guest`."""
        return self._engine.image.address("copy_guest")

    def make_natively(self, calls: Mapping[int, int]) -> None:
        """Make these calls of the program, by its number, without an exit. Before it runs."""
        for number, address in calls.items():
            self._machine.native_calls[number] = address

    def create_cpu(self) -> JitUserCpu:
        """Create a processor with all registers zero."""
        cpu = JitUserCpu(self, self._engine, ctypes.addressof(self._machine))
        with self.cache.held():
            slot = self._free.pop() if self._free else len(self._cpus)
            if slot >= VCPU_LIMIT:
                raise AccelError(f"more than {VCPU_LIMIT} threads")
            self._machine.vcpus[slot] = cpu.address
            cpu.slot = slot
            self._machine.vcpu_count = max(self._machine.vcpu_count, slot + 1)
            self._cpus[slot] = cpu
        return cpu

    def forget_cpu(self, cpu: JitUserCpu) -> None:
        """Let go of a processor that is closed."""
        with self.cache.held():
            self._machine.vcpus[cpu.slot] = 0
            del self._cpus[cpu.slot]
            self._free.append(cpu.slot)

    def code_changed(self, start: int, size: int) -> None:
        """Forget what was translated from there, and whether code may be fetched."""
        pages = self._code_pages(start, size)
        if not pages:
            return
        with self.cache.held():
            self._changes += 1
            for page in pages:
                self._executable[page >> PAGE_SHIFT] = 0
            self.changeable.difference_update(pages)
            self._forget_pages(pages, {})

    def code_written(self, start: int, size: int) -> None:
        """Forget what was translated from there, where it is other code now."""
        self.forget_written(self._code_pages(start, size))

    def forget_written(self, pages: Collection[int]) -> None:
        """The same for what is on *pages*."""
        with self.cache.held():
            content = {page: self.read_page(page) for page in pages}
            gone = [page for page, data in content.items() if data is None]
            kept = {page: data for page, data in content.items() if data is not None}
            self._forget_pages(gone, kept)

    def _forget_pages(self, gone: Collection[int], content: Mapping[int, bytes]) -> None:
        """Forget what was made from pages that are *gone*, or is not what their *content* is now.

        Under the lock. All threads see it at once: the heads of what is forgotten lead elsewhere.
        """
        regions, forget = self.installer, self._forget_page
        for page in {*gone, *regions.forget_gone(gone), *regions.forget_changed(content)}:
            forget(self.cache.address, page, 0)
        for page, data in content.items():
            place = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value
            forget(self.cache.address, page, place)

    @contextmanager
    def holding_code(self) -> Iterator[None]:
        """See `accel.user.UserEngine.holding_code`."""
        with self.cache.held():
            yield

    def after_fork(self) -> None:
        """See `accel.user.UserEngine.after_fork`."""
        self.installer.after_fork()

    def _code_pages(self, start: int, size: int) -> list[int]:
        """The pages of a range from which code was fetched."""
        last = min(start + size + PAGE_SIZE - 1, WINDOW_SIZE) >> PAGE_SHIFT
        find = self._executable.find
        found: list[int] = []
        page = find(b"\1", max(start, 0) >> PAGE_SHIFT, last)
        while page >= 0:
            found.append(page << PAGE_SHIFT)
            page = find(b"\1", page + 1, last)
        return found

    def regions(self) -> RegionService:
        """The compiler of hot code, which keeps its descriptors where the program has none."""
        service = region_service(self.optimiser.kept)
        service.descriptors = self.descriptors
        service.thread_begins = self.forbid_forks
        return service

    def be_precise(self) -> None:
        """From now on the program looks at its registers when an access is refused."""
        if not self.precise:
            self.precise = True
            self.cache.flush()

    def take_signals(self, settle: int, handler: int) -> None:
        """Have signals settled by the routine *settle*, and *handler* told of those sent."""
        self._machine.settle, self._machine.sent_signal = settle, handler

    def take_forks(self, note: int, adopt: Callable[[], None], forbid: Callable[[], None]) -> None:
        """Have *adopt* called in a process that a native call has made (`accel.user`)."""
        self.fork_note = ctypes.c_uint32.from_address(note)
        self.adopt_fork, self.forbid_forks = adopt, forbid

    def profile(self) -> Profile:
        """Where the program has spent its time. Any thread."""
        # Any of them: after the program's end there may be none.
        for cpu in self._cpus.values():
            return self.installer.profile(cpu, self._engine.isa, flat=True)
        from tandemu.accel.profile import Profile

        return Profile(0, 0, ())

    def statistics(self) -> dict[str, int]:
        """Counters of all processors added up."""
        total = Counter({**self.cache.counters(), **self.installer.statistics()})
        for cpu in list(self._cpus.values()):
            total.update(cpu.counters())
        total.update(self.regions().statistics())
        return dict(total)

    def close(self) -> None:
        """Free the window. No processor may be running."""
        for cpu in list(self._cpus.values()):
            cpu.close()
        self.cache.free()
        ctypes.CDLL(None).munmap(ctypes.c_void_p(self.base), ctypes.c_size_t(WINDOW_SIZE))


def _do_nothing() -> None:
    """For a program whose forks are all Python's."""


class JitUserCpu(TranslatedCpu):
    """The processor of one guest thread."""

    def __init__(self, owner: JitUserEngine, engine: Engine, machine: int) -> None:
        super().__init__(engine, machine, owner.cache)
        self._owner = owner
        self.slot = -1
        self._kicked = False
        self.regions = owner.installer
        cpu = self.cpu
        cpu.slice_length = self.regions.slice_length
        engine.isa.control.begin_program(cpu)
        self._causes = engine.isa.control.causes
        cpu.fault_routine = engine.image.address("memory_fault")
        self.state = cpu
        self.request_address = self.address + engine.layout.offset("request")

    def set_call_context(self, address: int) -> None:
        """What native calls get as their first argument."""
        self.cpu.call_context = address

    def run(self) -> UserExit:
        """Run the program on the calling thread until an exit."""
        cpu, enter, address = self.cpu, self._enter, self.address
        fork_note = self._owner.fork_note
        while True:
            if self.regions.ready:
                self.regions.install_ready(self, self)
            if self._kicked:
                self._kicked = False
                return _KICKED
            kind = enter(address)
            if fork_note.value:
                self._owner.adopt_fork()
            if kind == EXIT_TRAP:
                cause = cpu.trap_cause
                if cause == self._causes.call:
                    return _SYSTEM_CALL
                leaving = self._trap(cause)
                if leaving is not None:
                    return leaving
            elif kind == EXIT_INTERRUPTED:
                # The flags go before what they stand for is looked at.
                self._change_request(address, 0, _REQUESTS)
                if cpu.effects:
                    # FENCE.I: it may have written code anywhere.
                    cpu.effects = 0
                    self._owner.forget_written(list(self._owner.changeable))
            elif kind == EXIT_HOT:
                self.regions.hot(self, self)
            elif kind == EXIT_SOFTWARE:
                self._finish_in_software()
            else:
                raise AccelError(f"the translator left with unknown reason {kind}")

    def _trap(self, cause: int) -> UserExit | None:
        cpu = self.cpu
        value: int = cpu.trap_value
        if cause == FETCH_CHECK:
            return None if self._owner.may_execute(value) else MemoryFault(value, "execute")
        if cause == SIGNAL_DUE:
            return SignalDue(value)
        causes = self._causes
        if cause == causes.fetch:
            return MemoryFault(value, "execute")
        if cause in causes.load:
            return MemoryFault(value, "read")
        if cause in causes.store:
            return MemoryFault(value, "write")
        if cause in causes.misaligned:
            return Misaligned(value)
        if cause in causes.breakpoint:
            return _BREAKPOINT
        return IllegalInstruction(value)

    def _finish_in_software(self) -> None:
        # Rounding that the host does not have; the first time it traces every instruction.
        from tandemu.jit.engine.software import software_interpreter

        software_interpreter(self._engine.isa.name).finish_instruction(self.cpu, self.address)

    def place(self, pc: int) -> Place:
        """What kind of code is at *pc* (`installer.GuestCode`): a program's always."""
        return Place(RegionKind(self._engine.isa.name, True, 0, self._owner.precise), pc, pc)

    def code(self, place: Place) -> dict[int, bytes]:
        """The pages around *place* from which code has been fetched."""
        return self._owner.code_around(place.pc)

    def is_debugged(self, region: Region) -> bool:
        """Whether there is a breakpoint in the code of *region* (`installer.GuestCode`)."""
        return self._owner.debugging.cover(region.extents)

    def spares_a_processor(self) -> bool:
        """No: a program is seldom the only one that runs, and mostly short."""
        return False

    def kick(self) -> None:
        """Make `run` return `Kicked` soon. Any thread; not lost if not running."""
        self._kicked = True
        self._change_request(self.address, REQUEST_KICK, 0)

    def close(self) -> None:
        """Free what the engine keeps for this thread."""
        self._owner.forget_cpu(self)
