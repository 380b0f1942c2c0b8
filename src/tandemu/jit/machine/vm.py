"""A virtual machine of the translator: `accel.Vm`."""

from __future__ import annotations

import ctypes
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from tandemu.accel import AccelError, Capability, Fence, Watch
from tandemu.accel.profile import Profile
from tandemu.bits import mask
from tandemu.jit.engine.breakpoints import DebugTables
from tandemu.jit.engine.code_cache import LARGEST, CodeCache
from tandemu.jit.engine.load import Engine, load_engine
from tandemu.jit.machine.doorbells import Doorbells
from tandemu.jit.machine.posted import PostedPort
from tandemu.jit.machine.vcpu import JitVcpu
from tandemu.jit.regions.installer import RegionInstaller
from tandemu.jit.regions.service import RegionService, region_service
from tandemu.jit.regions.settings import optimiser_settings
from tandemu.jit.shared.layout import (
    INVALID,
    MACHINE,
    NANOSECONDS_PER_TICK,
    VCPU_LIMIT,
)
from tandemu.memory import GuestMemory, MapError, RamRegion
from tandemu.slots.routines import NativeNotes

if TYPE_CHECKING:
    from tandemu.jit.engine.software import SoftwareInterpreter

CODE_CACHE_SIZES = LARGEST
"""Of a machine's code cache: address space; memory is used as it fills."""
_SLICE = 16384
"""Instructions between two looks at timers and requests: some 10 µs."""
_THRESHOLD = 512
"""Slices that end at a block before it is hot: eight million instructions. A kernel that boots
comes through many blocks, and is done before code for most of them would be."""
_PATIENCE, _PATIENCE_FOR_ONE = 1 << 17, 1 << 12
"""Slices before the compiler is started: twice a stock kernel's boot. And some 40 ms where a
processor is to spare, for which the next boot is faster, or if one block stands out, which is
none of a kernel that boots."""


class _Tracker:
    """Dirty logs (`memory.WriteTracker`): generated code sets the flags of pages itself."""

    def __init__(self, vm: JitVm) -> None:
        self._vm = vm

    def begin(self, region: RamRegion) -> None:
        """Nothing to do: first writes are always noted."""

    def end(self, region: RamRegion) -> None:
        """Nothing to do."""

    def collect(self, region: RamRegion) -> None:
        """Nothing to add to the flags."""

    def watch(self) -> None:
        """Take the entries for writing out of all TLBs."""
        self._vm.flush_translations()


class JitVm:
    """Memory slots, vCPUs and a clock; *firmware_calls* answers S-mode ECALLs by exits."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.PROFILE,
            Capability.PROCESSOR_MESSAGES,
            Capability.DOORBELLS,
            Capability.POSTED_WRITES,
            Capability.DEBUG,
        }
    )

    def __init__(
        self,
        isa: str = "riscv64",
        *,
        firmware_calls: bool = False,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self.firmware_calls = firmware_calls
        self.optimiser = optimiser_settings(_THRESHOLD, _SLICE, _PATIENCE, _PATIENCE_FOR_ONE)
        self.engine: Engine = load_engine(isa, notice)
        self._memory = ctypes.create_string_buffer(MACHINE.size)
        self.address = ctypes.addressof(self._memory)
        self._machine: Any = MACHINE.at(self.address)
        self._machine.time_offset = time.monotonic_ns()
        self._doorbells = Doorbells(self._machine)
        self._machine.posted.writes = self._machine.posted.status = INVALID
        self.posted: PostedPort | None = None
        self.debugging = DebugTables(self._machine)
        self.cache = CodeCache(self.engine, self.address, CODE_CACHE_SIZES)
        self._machine.code_cache = self.cache.address
        self.regions = RegionInstaller(self.cache, self.optimiser, self.region_service)
        self._standing: int | None = None
        """The guest's clock while it stands."""
        self.vcpus: list[JitVcpu] = []
        self.memory = GuestMemory()
        self._machine.memory = self.memory.address
        self.memory.notes = NativeNotes(self.memory.address, self.engine.routine)
        self.memory.holds_code = True
        self.memory.tracker = _Tracker(self)

    def set_memory_slot(self, region: RamRegion) -> None:
        """Map *region*; a region at the same base is replaced."""
        try:
            self.memory.add(region)
        except MapError as error:
            raise AccelError(str(error)) from error
        self._forget_code()

    def remove_memory_slot(self, base: int) -> None:
        """Unmap the region at guest address *base*: accesses become exits."""
        self.memory.remove(base)
        self._forget_code()

    def _forget_code(self) -> None:
        # Blocks are known by physical address: what is there may be another's code.
        self.cache.flush()
        for vcpu in self.vcpus:
            vcpu.forget_translations()

    def flush_translations(self) -> None:
        """Have every vCPU forget its address translations. Any thread; done on return."""
        for vcpu in self.vcpus:
            vcpu.fence(Fence())

    def set_breakpoints(self, addresses: Collection[int]) -> None:
        """Have vCPUs leave before the instructions at *addresses*; see `accel.DebuggableVm`."""
        if self.debugging.set_breakpoints(addresses):
            self._forget_code()

    def set_watches(self, watches: Sequence[Watch]) -> None:
        """Have vCPUs leave when they access one of *watches*; see `accel.DebuggableVm`."""
        if self.debugging.set_watches(watches):
            self.flush_translations()

    def connect_doorbell(self, address: int, descriptor: int) -> bool:
        """Let writes to *address* be events of *descriptor*; see `accel.DoorbellVm`."""
        return self._doorbells.connect(address, descriptor)

    def disconnect_doorbell(self, address: int, descriptor: int) -> None:
        """Let them be exits again."""
        self._doorbells.disconnect(address, descriptor)

    def post_writes(
        self, address: int, status: int, take: Callable[[bytes], None]
    ) -> Callable[[int | None], None]:
        """Keep writes to *address* while many come; see `accel.PostingVm`."""
        if self.posted is not None:
            raise AccelError(
                f"writes to {self.posted.address:#x} are posted already: only one can be"
            )
        self.posted = PostedPort(self._machine.posted, address, status, take)
        return self.posted.show

    def create_vcpu(self, index: int) -> JitVcpu:
        """Create vCPU number *index*, reset."""
        if len(self.vcpus) == VCPU_LIMIT:
            raise AccelError(f"more than {VCPU_LIMIT} vCPUs")
        vcpu = JitVcpu(self, index)
        with self.cache.held():
            self.vcpus.append(vcpu)
            self._machine.vcpus[len(self.vcpus) - 1] = vcpu.address
            self._machine.vcpu_count = len(self.vcpus)
        return vcpu

    def time(self) -> int:
        """The guest's clock in ticks of its time base (10 MHz)."""
        if self._standing is not None:
            return self._standing
        shared = self._machine
        passed = (time.monotonic_ns() - shared.time_offset) // NANOSECONDS_PER_TICK
        ticks: int = (shared.time_ticks + passed) & mask(64)
        return ticks

    def set_time(self, ticks: int) -> None:
        """Let the guest's clock go on from *ticks*. Any thread.

        A vCPU that runs sees it at the end of its slice at the latest.
        """
        if self._standing is not None:
            self._standing = ticks & mask(64)
        self._machine.time_offset = time.monotonic_ns()
        self._machine.time_ticks = ticks & mask(64)
        for vcpu in self.vcpus:
            vcpu.wake()

    def stop_time(self) -> None:
        """Let the guest's clock and timers stand. No vCPU may be running until `start_time`."""
        self._standing = self.time()

    def start_time(self) -> None:
        """Let them go on from where they stand."""
        standing, self._standing = self._standing, None
        if standing is not None:
            self.set_time(standing)

    def controllers(self) -> Mapping[str, int]:
        """None: a board's interrupt controllers are its devices."""
        return {}

    def set_controllers(self, values: Mapping[str, int]) -> None:
        """See `controllers`."""
        if values:
            raise AccelError(f"the translator has no {', '.join(sorted(values))}")

    # Registers and the slow way ----------------------------------------------------------

    @cached_property
    def _software(self) -> SoftwareInterpreter:
        # It traces every instruction anew, which only the rare cases are worth.
        from tandemu.jit.engine.software import software_interpreter

        return software_interpreter(self.engine.isa.name)

    @property
    def registers(self) -> Any:
        """Access to registers by name (`isa.guest.Registers`)."""
        return self._software.registers

    def run_in_software(self, vcpu: JitVcpu) -> None:
        """Carry out the instruction that generated code left to the evaluator."""
        self._software.finish_instruction(vcpu.cpu, vcpu.address)

    def region_service(self) -> RegionService:
        """The compiler of hot code."""
        return region_service(self.optimiser.kept)

    def statistics(self) -> Mapping[str, int | float]:
        """Counters of all vCPUs added up, by name. Any thread."""
        total = Counter({**self.cache.counters(), **self.regions.statistics()})
        for vcpu in self.vcpus:
            total.update(vcpu.statistics())
        total.update(self.region_service().statistics())
        return dict(total)

    def profile(self) -> Profile:
        """Where the guest has spent its time. No vCPU may be running."""
        vcpu = self.vcpus[0]
        return self.regions.profile(vcpu, self.engine.isa, flat=False)

    def close(self) -> None:
        """Free everything. No vCPU may be running."""
        if self.posted is not None:
            self.posted.close()
        for vcpu in self.vcpus:
            vcpu.close()
        self.vcpus.clear()
        self.cache.free()
