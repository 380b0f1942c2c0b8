"""A virtual machine of the translator: `accel.Vm`."""

from __future__ import annotations

import ctypes
import time
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tandemu.accel import AccelError, Fence
from tandemu.accel.profile import Profile, add_profiles
from tandemu.jit.engine.load import Engine, load_engine
from tandemu.jit.machine.vcpu import JitVcpu
from tandemu.jit.regions.service import RegionService, region_service
from tandemu.jit.regions.settings import optimiser_settings
from tandemu.jit.shared.layout import (
    MACHINE,
    NANOSECONDS_PER_TICK,
    PAGE_SHIFT,
    PAGE_SIZE,
    SLOT_LIMIT,
    SLOT_READONLY,
    SLOT_TABLE,
    VCPU_LIMIT,
)
from tandemu.memory import RamRegion

if TYPE_CHECKING:
    from tandemu.jit.engine.software import SoftwareInterpreter

_SLICE = 16384
"""Instructions between two looks at timers and requests: some 10 µs."""
_THRESHOLD = 512
"""Slices that end at a block before it is hot: eight million instructions. A kernel that boots
comes through many blocks, and is done before code for most of them would be."""
_PATIENCE, _PATIENCE_FOR_ONE = 1 << 17, 1 << 12
"""Slices before the compiler is started: twice a stock kernel's boot. And some 40 ms where a
processor is to spare, for which the next boot is faster, or if one block stands out, which is
none of a kernel that boots."""


class JitVm:
    """Memory slots, vCPUs and a clock; *firmware_calls* answers S-mode ECALLs by exits."""

    def __init__(
        self,
        xlen: int = 64,
        *,
        firmware_calls: bool = False,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self.firmware_calls = firmware_calls
        self.optimiser = optimiser_settings(_THRESHOLD, _SLICE, _PATIENCE, _PATIENCE_FOR_ONE)
        self.engine: Engine = load_engine(xlen, notice)
        self._memory = ctypes.create_string_buffer(MACHINE.size)
        self.address = ctypes.addressof(self._memory)
        self._machine: Any = MACHINE.at(self.address)
        self._machine.time_offset = time.monotonic_ns()
        self._regions: list[RamRegion] = []
        self._page_flags: dict[int, Any] = {}
        self._slot_tables: list[Any] = []
        self.vcpus: list[JitVcpu] = []
        self._publish([])

    def set_memory_slot(self, region: RamRegion) -> None:
        """Map *region*; a region at the same base is replaced."""
        if region.base % PAGE_SIZE or region.size % PAGE_SIZE or region.host_address % PAGE_SIZE:
            raise AccelError(f"memory slot at {region.base:#x}: must be made of whole pages")
        kept = [old for old in self._regions if old.base != region.base]
        if len(kept) == SLOT_LIMIT:
            raise AccelError(f"more than {SLOT_LIMIT} memory slots: merge some regions")
        # The flags of a region live as long as the VM: code may still look at them.
        pages = region.size >> PAGE_SHIFT
        flags = self._page_flags.get(region.base)
        if flags is None or len(flags) < pages:
            self._page_flags[region.base] = ctypes.create_string_buffer(pages)
        self._publish([*kept, region])

    def remove_memory_slot(self, base: int) -> None:
        """Unmap the region at guest address *base*: accesses become exits."""
        self._publish([old for old in self._regions if old.base != base])

    def _publish(self, regions: list[RamRegion]) -> None:
        # The largest first: it is asked for most.
        self._regions = sorted(regions, key=lambda one: -one.size)
        memory = ctypes.create_string_buffer(SLOT_TABLE.size)
        table: Any = SLOT_TABLE.over(memory)
        for number, region in enumerate(self._regions):
            slot = table.slots[number]
            slot.base, slot.size, slot.host = region.base, region.size, region.host_address
            slot.pages = ctypes.addressof(self._page_flags[region.base])
            slot.flags = SLOT_READONLY if region.readonly else 0
        table.count = len(self._regions)
        # A vCPU may still be looking at the table before: all of them are kept.
        self._slot_tables.append(memory)
        self._machine.slots = ctypes.addressof(memory)
        for vcpu in self.vcpus:
            # Blocks are known by physical address: what is there may be another's code.
            vcpu.forget_code()

    def _flush_all(self) -> None:
        for vcpu in self.vcpus:
            vcpu.fence(Fence())

    def create_vcpu(self, index: int) -> JitVcpu:
        """Create vCPU number *index*, reset."""
        if len(self.vcpus) == VCPU_LIMIT:
            raise AccelError(f"more than {VCPU_LIMIT} vCPUs")
        vcpu = JitVcpu(self, index)
        self.vcpus.append(vcpu)
        self._machine.vcpus[len(self.vcpus) - 1] = vcpu.address
        self._machine.vcpu_count = len(self.vcpus)
        return vcpu

    def time(self) -> int:
        """The guest's clock in ticks of its time base (10 MHz)."""
        offset: int = self._machine.time_offset
        return (time.monotonic_ns() - offset) // NANOSECONDS_PER_TICK

    # Dirty log ---------------------------------------------------------------------------

    def _region(self, base: int) -> RamRegion:
        for region in self._regions:
            if region.base == base:
                return region
        raise AccelError(f"there is no memory slot at {base:#x}")

    def start_dirty_log(self, base: int) -> None:
        """Begin to note which pages of the slot at *base* are written."""
        self.dirty_log(base)

    def dirty_log(self, base: int) -> bytes:
        """Return and clear the written pages of the slot at *base*: one bit a page, LSB first."""
        region = self._region(base)
        pages = region.size >> PAGE_SHIFT
        bits = ctypes.create_string_buffer((pages + 7) // 8)
        flags = ctypes.addressof(self._page_flags[base])
        self.engine.routine("take_dirty", 3)(flags, pages, ctypes.addressof(bits))
        self._flush_all()
        return bits.raw

    # Registers and the slow way ----------------------------------------------------------

    @cached_property
    def _software(self) -> SoftwareInterpreter:
        # It traces every instruction anew, which only the rare cases are worth.
        from tandemu.jit.engine.software import software_interpreter

        return software_interpreter(self.engine.xlen)

    @property
    def registers(self) -> Any:
        """Access to registers by name (`isa.riscv.hart_access.HartRegisters`)."""
        return self._software.registers

    def run_in_software(self, vcpu: JitVcpu) -> None:
        """Carry out the instruction that generated code left to the evaluator."""
        self._software.finish_instruction(vcpu.cpu, vcpu.address)

    def region_service(self) -> RegionService:
        """The compiler of hot code."""
        return region_service(self.optimiser.kept)

    def statistics(self) -> dict[str, int]:
        """Counters of all vCPUs added up, by name. Any thread."""
        total: Counter[str] = Counter()
        for vcpu in self.vcpus:
            total.update(vcpu.statistics())
        total.update(self.region_service().statistics())
        return dict(total)

    def profile(self) -> Profile:
        """Where the guest has spent its time. No vCPU may be running."""
        return add_profiles(vcpu.profile() for vcpu in self.vcpus)

    def close(self) -> None:
        """Free everything. No vCPU may be running."""
        for vcpu in self.vcpus:
            vcpu.close()
        self.vcpus.clear()
