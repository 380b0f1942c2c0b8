"""A virtual machine of KVM: `accel.Vm`, with interrupt controllers and event descriptors.

In-kernel local APICs and I/O APIC are made with the VM; PIC and PIT are in use only where
a *timer* is asked for, since a machine without legacy hardware has none. Interrupt lines
are numbers of the I/O APIC's inputs (GSIs). Memory slots are the VM's RAM in this process.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import ClassVar

from tandemu.accel import Capability, Watch
from tandemu.bits import Record, replace
from tandemu.kvm import abi, cpuid
from tandemu.kvm.abi import Capability as KernelCapability
from tandemu.kvm.calls import with_entries
from tandemu.kvm.coalescing import CoalescedPort
from tandemu.kvm.debugging import DebugRegisters
from tandemu.kvm.errors import KvmError
from tandemu.kvm.registers import Timers
from tandemu.kvm.structures import (
    CLOCK_DATA,
    IOEVENTFD,
    IRQ_LEVEL,
    IRQ_ROUTING,
    IRQ_ROUTING_ENTRY,
    IRQCHIP,
    IRQFD,
    MSI,
    PIT_CONFIG,
    PIT_STATE2,
    USERSPACE_MEMORY_REGION,
)
from tandemu.kvm.system import System, has_hardware
from tandemu.kvm.tracker import KernelTracker, Slot
from tandemu.kvm.vcpu import KvmVcpu
from tandemu.memory import GuestMemory, MapError, RamRegion

# Four pages that VMX needs for itself, below the firmware's place and above any device.
_IDENTITY_MAP = 0xFFFB_C000
_TASK_STATE = 0xFFFB_D000
_MSI_BASE = 0xFEE0_0000
_IO_APIC_INPUTS = 24
_DOORBELL_BYTES = 2


def _structure_bytes(name: str, value: int, size: int) -> bytes:
    try:
        return value.to_bytes(size, "little")
    except OverflowError:
        raise KvmError(f"the state of {name} is not {size} bytes long") from None


class StandingTime(Record):
    """What clocks and timers showed when they were stopped: kvmclock in ns, each vCPU's timers."""

    clock: int
    timers: tuple[Timers, ...]


class KvmVm:
    """Memory slots, vCPUs, interrupt lines, a clock.

    *cpu_model* is one of `cpuid.MODELS`; *timer*: PC timer and PIC. An engine for x86-64
    without firmware calls. All vCPUs are made before one is used: each knows their number.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.CPU_MODELS,
            Capability.INTERRUPT_LINES,
            Capability.COALESCED_PORTS,
            Capability.DOORBELLS,
            Capability.DEBUG,
        }
    )

    def __init__(
        self,
        isa: str = "x86_64",
        *,
        firmware_calls: bool = False,
        notice: Callable[[str], None] | None = None,
        cpu_model: str = cpuid.HOST,
        timer: bool = False,
        system: System | None = None,
    ) -> None:
        if isa != "x86_64" or firmware_calls:
            raise KvmError(
                "KVM runs x86-64 guests without built-in firmware: for another guest use"
                " --accel jit"
            )
        self._own_system = system is None
        self.system = system or System()
        self.vcpus: list[KvmVcpu] = []
        self.debugging = DebugRegisters()
        self.coalesced: CoalescedPort | None = None
        self._standing: StandingTime | None = None
        self._has_timer = timer
        pics = {"pic0": abi.CHIP_PIC_MASTER, "pic1": abi.CHIP_PIC_SLAVE} if timer else {}
        self._chips = {**pics, "ioapic": abi.CHIP_IOAPIC}
        self.slots: dict[int, Slot] = {}
        """What the kernel has, by base."""
        self.memory = GuestMemory()
        self.memory.tracker = KernelTracker(self)
        try:
            self.cpuid = cpuid.apply_model(self.system.supported_cpuid, cpu_model)
            self.file = self.system.create_vm()
        except BaseException:
            if self._own_system:
                self.system.close()
            raise
        try:
            self._make_controllers(timer)
        except BaseException:
            self.close()
            raise

    def _make_controllers(self, timer: bool) -> None:
        if self.system.capability(KernelCapability.SET_IDENTITY_MAP_ADDR):
            self.file.structure(abi.SET_IDENTITY_MAP_ADDR, ctypes.c_uint64(_IDENTITY_MAP))
        if self.system.capability(KernelCapability.SET_TSS_ADDR):
            self.file.number(abi.SET_TSS_ADDR, _TASK_STATE)
        self.file.number(abi.CREATE_IRQCHIP)
        if timer:
            configuration = PIT_CONFIG.ctype(flags=abi.PIT_SPEAKER_DUMMY)
            self.file.structure(abi.CREATE_PIT2, configuration)
        else:
            self._leave_pic_out()

    def _leave_pic_out(self) -> None:
        """Wire every line to the I/O APIC only: nobody would silence the PIC's interrupts."""
        table = with_entries(IRQ_ROUTING, IRQ_ROUTING_ENTRY.ctype, _IO_APIC_INPUTS)
        table.header.nr = _IO_APIC_INPUTS
        for number, entry in enumerate(table.entries):
            entry.gsi, entry.type = number, abi.ROUTING_IRQCHIP
            entry.u[0] = abi.CHIP_IOAPIC | number << 32
        self.file.structure(abi.SET_GSI_ROUTING, table)

    # Memory ------------------------------------------------------------------------------

    def _set_slot(self, slot: Slot, size: int) -> None:
        region = slot.region
        self.file.structure(
            abi.SET_USER_MEMORY_REGION,
            USERSPACE_MEMORY_REGION.ctype(
                slot=slot.number,
                flags=slot.flags,
                guest_phys_addr=region.base,
                memory_size=size,
                userspace_addr=region.host_address,
            ),
        )

    def set_memory_slot(self, region: RamRegion) -> None:
        """Map *region*; a region at the same base is replaced."""
        limit = self.system.capability(KernelCapability.NR_MEMSLOTS) or 32
        if len(self.slots.keys() - {region.base}) >= limit:
            raise KvmError(f"more than {limit} memory slots: merge some regions")
        try:
            self.memory.add(region)
        except MapError as error:
            raise KvmError(str(error)) from error
        self._remove(region.base)
        used = {slot.number for slot in self.slots.values()}
        number = next(number for number in range(len(used) + 1) if number not in used)
        flags = abi.MEM_READONLY if region.readonly else 0
        flags |= abi.MEM_LOG_DIRTY_PAGES if self.memory.is_logging else 0
        slot = Slot(number, region, flags)
        try:
            self._set_slot(slot, region.size)
        except KvmError:
            self.memory.remove(region.base)
            raise
        self.slots[region.base] = slot

    def remove_memory_slot(self, base: int) -> None:
        """Unmap the region at guest address *base*: accesses become exits."""
        self.memory.remove(base)
        self._remove(base)

    def _remove(self, base: int) -> None:
        if base in self.slots:
            self._set_slot(self.slots.pop(base), 0)

    def change_flags(self, slot: Slot, flags: int) -> None:
        """Give the kernel other flags of a slot."""
        changed = replace(slot, flags=flags)
        self._set_slot(changed, slot.region.size)
        self.slots[slot.region.base] = changed

    # Processors, interrupts, events ------------------------------------------------------

    def create_vcpu(self, index: int) -> KvmVcpu:
        """Create vCPU number *index*, reset. The first one starts; others wait for it."""
        limit = self.system.capability(KernelCapability.MAX_VCPUS) or 4
        if index >= limit:
            raise KvmError(f"vCPU {index}: this host's KVM has at most {limit} in a VM")
        vcpu = KvmVcpu(self, index)
        self.vcpus.append(vcpu)
        return vcpu

    @cached_property
    def blocks_interrupts(self) -> bool:
        """Whether KVM can keep interrupts back while it steps (Linux 5.15)."""
        able = self.system.capability(KernelCapability.SET_GUEST_DEBUG2)
        return bool(able & abi.GUESTDBG_BLOCKIRQ)

    def set_breakpoints(self, addresses: Collection[int]) -> None:
        """Have vCPUs leave before the instructions at *addresses*; see `accel.DebuggableVm`."""
        if self.debugging.set_breakpoints(addresses):
            self._debug()

    def set_watches(self, watches: Sequence[Watch]) -> None:
        """Have vCPUs leave when they access one of *watches*; see `accel.DebuggableVm`."""
        if watches and not has_hardware():
            raise KvmError(
                "this host's KVM is software, which has no debug registers for data: watchpoints "
                "need a host with VMX or SVM"
            )
        if self.debugging.set_watches(watches):
            self._debug()

    def _debug(self) -> None:
        for vcpu in self.vcpus:
            vcpu.debug()

    def set_interrupt_line(self, gsi: int, level: bool) -> None:
        """Set an input of the interrupt controllers. Any thread; nothing happens once closed."""
        if self.file.fd < 0:  # a device that hears its last input while the machine ends
            return
        self.file.structure(abi.IRQ_LINE, IRQ_LEVEL.ctype(irq=gsi, level=int(level)))

    def signal_message(self, address: int, data: int) -> bool:
        """Deliver a message-signalled interrupt; False: no processor took it. Any thread."""
        message = MSI.ctype(address_lo=address & 0xFFFF_FFFF, address_hi=address >> 32, data=data)
        return self.file.structure(abi.SIGNAL_MSI, message) > 0

    def send_vector(self, processor: int, vector: int) -> None:
        """Interrupt the processor with that APIC ID (below 255). Any thread."""
        self.signal_message(_MSI_BASE | processor << 12, vector)

    def connect_interrupt(self, eventfd: int, gsi: int, *, connect: bool = True) -> None:
        """Let every write to *eventfd* pulse an input of the interrupt controllers (irqfd)."""
        flags = 0 if connect else abi.IRQFD_DEASSIGN
        self.file.structure(abi.IRQFD, IRQFD.ctype(fd=eventfd, gsi=gsi, flags=flags))

    def connect_write(
        self,
        eventfd: int,
        address: int,
        size: int,
        *,
        value: int | None = None,
        port: bool = False,
        connect: bool = True,
    ) -> None:
        """Let a guest's write signal *eventfd* instead of making an exit (ioeventfd).

        *size* 0: a write of any size; *value*: only a write of that value; *port*:
        *address* is an I/O port.
        """
        flags = abi.IOEVENTFD_PIO if port else 0
        flags |= 0 if connect else abi.IOEVENTFD_DEASSIGN
        flags |= 0 if value is None else abi.IOEVENTFD_DATAMATCH
        request = IOEVENTFD.ctype(
            datamatch=value or 0, addr=address, len=size, fd=eventfd, flags=flags
        )
        self.file.structure(abi.IOEVENTFD, request)

    def connect_doorbell(self, address: int, descriptor: int) -> bool:
        """Let writes of two bytes to *address* be events; see `accel.DoorbellVm`."""
        try:
            self.connect_write(descriptor, address, _DOORBELL_BYTES)
        except KvmError:  # the kernel has room for so many only
            return False
        return True

    def disconnect_doorbell(self, address: int, descriptor: int) -> None:
        """Let them be exits again."""
        if self.file.fd >= 0:
            self.connect_write(descriptor, address, _DOORBELL_BYTES, connect=False)

    def coalesce_port(self, port: int, take: Callable[[bytes], None]) -> None:
        """Let *take* have writes of one byte to an I/O port together, while many come.

        They come in order, on a vCPU's thread, and before the next thing that `Vcpu.run` returns.
        Writes are exits as ever while few come, and where the kernel has no such thing.
        """
        if self.coalesced is not None:
            raise KvmError(f"port {self.coalesced.port:#x} is coalesced already: only one can be")
        page = self.system.capability(KernelCapability.COALESCED_MMIO)
        if page and self.system.capability(KernelCapability.COALESCED_PIO) and self.vcpus:
            vcpu = self.vcpus[0]
            self.coalesced = CoalescedPort(self.file, vcpu.file, page, port, take, vcpu.nudge)

    def statistics(self) -> Mapping[str, int | float]:
        """Counters by name, of all vCPUs. Any thread."""
        return {"exits": sum(vcpu.exits for vcpu in self.vcpus)}

    def controllers(self) -> Mapping[str, int]:
        """The I/O APIC, and PIC and PIT where they are in use, as the kernel's structures."""
        found = {name: self._chip(number) for name, number in self._chips.items()}
        if self._has_timer:
            found["pit"] = int.from_bytes(bytes(self.file.get(abi.GET_PIT2)), "little")
        return found

    def _chip(self, number: int) -> int:
        chip = IRQCHIP.ctype(chip_id=number)
        self.file.structure(abi.GET_IRQCHIP, chip)
        return int.from_bytes(bytes(chip.chip), "little")

    def set_controllers(self, values: Mapping[str, int]) -> None:
        """Put back what `controllers` said."""
        expected = {*self._chips, *(("pit",) if self._has_timer else ())}
        if values.keys() != expected:
            raise KvmError(f"the interrupt controllers here are {', '.join(sorted(expected))}")
        for name, value in values.items():
            if name == "pit":
                layout = PIT_STATE2
                content = _structure_bytes(name, value, layout.size)
                self.file.structure(abi.SET_PIT2, layout.ctype.from_buffer_copy(content))
            else:
                chip = IRQCHIP.ctype(chip_id=self._chips[name])
                content = _structure_bytes(name, value, len(chip.chip))
                ctypes.memmove(chip.chip, content, len(content))
                self.file.structure(abi.SET_IRQCHIP, chip)

    # Clock -------------------------------------------------------------------------------

    def time(self) -> int:
        """The guest's clock (kvmclock) in nanoseconds."""
        if self._standing is not None:
            return self._standing.clock
        clock: int = self.file.get(abi.GET_CLOCK).clock
        return clock

    def set_time(self, ticks: int) -> None:
        """Set the guest's clock, in nanoseconds."""
        if self._standing is not None:
            self._standing = replace(self._standing, clock=ticks)
        self.file.structure(abi.SET_CLOCK, CLOCK_DATA.ctype(clock=ticks))

    def stop_time(self) -> None:
        """Let the guest's clocks and timers stand. No vCPU may be running until `start_time`.

        The kernel's go on; they are put back to where they were then.
        """
        if self._standing is None:
            timers = tuple(vcpu.registers.timers() for vcpu in self.vcpus)
            self._standing = StandingTime(self.time(), timers)

    def start_time(self) -> None:
        """Let them go on from where they stand."""
        standing, self._standing = self._standing, None
        if standing is not None:
            self.set_time(standing.clock)
            for vcpu, timers in zip(self.vcpus, standing.timers, strict=False):
                vcpu.registers.set_timers(timers)

    def close(self) -> None:
        """Free everything. No vCPU may be running."""
        if self.coalesced is not None:
            self.coalesced.close()
            self.coalesced = None
        for vcpu in self.vcpus:
            vcpu.close()
        self.vcpus.clear()
        self.slots.clear()
        self.file.close()
        if self._own_system:
            self.system.close()
