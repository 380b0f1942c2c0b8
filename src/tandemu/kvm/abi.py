"""KVM's calls and constants: Linux Documentation/virt/kvm/api.rst, uapi ``linux/kvm.h``.

One row per ioctl: what it is called on, its number, the direction of its argument as the
number encodes it, the argument's layout, and the capability that says the kernel has it.
The names are the kernel's, without ``KVM_``.
"""

from __future__ import annotations

from enum import IntEnum

from tandemu.bits import U64, Layout, Record, Scalar
from tandemu.kvm import structures as s

API_VERSION = 12
_TYPE = 0xAE
_NONE, _IN, _OUT, _BOTH = 0, 1, 2, 3
"""Direction as seen from user space: nothing, written to the kernel, read from it, both."""


class Capability(IntEnum):
    """What ``CHECK_EXTENSION`` is asked for."""

    IRQCHIP = 0
    USER_MEMORY = 3
    SET_TSS_ADDR = 4
    EXT_CPUID = 7
    NR_VCPUS = 9
    NR_MEMSLOTS = 10
    NOP_IO_DELAY = 12
    MP_STATE = 14
    COALESCED_MMIO = 15
    USER_NMI = 22
    SET_GUEST_DEBUG = 23
    IRQ_ROUTING = 25
    DESTROY_MEMORY_REGION_WORKS = 21
    IRQFD = 32
    PIT2 = 33
    SET_IDENTITY_MAP_ADDR = 37
    PIT_STATE2 = 35
    IOEVENTFD = 36
    ADJUST_CLOCK = 39
    VCPU_EVENTS = 41
    DEBUGREGS = 50
    ENABLE_CAP = 54
    XSAVE = 55
    XCRS = 56
    TSC_CONTROL = 60
    GET_TSC_KHZ = 61
    MAX_VCPUS = 66
    TSC_DEADLINE_TIMER = 72
    KVMCLOCK_CTRL = 76
    SIGNAL_MSI = 77
    READONLY_MEM = 81
    DEVICE_CTRL = 89
    ENABLE_CAP_VM = 98
    MAX_VCPU_ID = 128
    IMMEDIATE_EXIT = 136
    GET_MSR_FEATURES = 153
    COALESCED_PIO = 162
    SET_GUEST_DEBUG2 = 195
    MANUAL_DIRTY_LOG_PROTECT2 = 168
    XSAVE2 = 208


class Ioctl(Record):
    """One call; *on* is the kind of file it is made on (system, vm, vcpu, device)."""

    name: str
    on: str
    number: int
    direction: int = _NONE
    argument: Layout | Scalar | None = None
    capability: Capability | None = None

    @property
    def code(self) -> int:
        """The request number: direction, size of the argument, ``0xAE``, number."""
        size = self.argument.size if self.argument else 0
        return self.direction << 30 | size << 16 | _TYPE << 8 | self.number


C = Capability
GET_API_VERSION = Ioctl("GET_API_VERSION", "system", 0x00)
CREATE_VM = Ioctl("CREATE_VM", "system", 0x01)
GET_MSR_INDEX_LIST = Ioctl("GET_MSR_INDEX_LIST", "system", 0x02, _BOTH, s.MSR_LIST)
CHECK_EXTENSION = Ioctl("CHECK_EXTENSION", "system", 0x03)
GET_VCPU_MMAP_SIZE = Ioctl("GET_VCPU_MMAP_SIZE", "system", 0x04)
GET_SUPPORTED_CPUID = Ioctl("GET_SUPPORTED_CPUID", "system", 0x05, _BOTH, s.CPUID2, C.EXT_CPUID)
GET_MSR_FEATURE_INDEX_LIST = Ioctl(
    "GET_MSR_FEATURE_INDEX_LIST", "system", 0x0A, _BOTH, s.MSR_LIST, C.GET_MSR_FEATURES
)

CREATE_VCPU = Ioctl("CREATE_VCPU", "vm", 0x41)
GET_DIRTY_LOG = Ioctl("GET_DIRTY_LOG", "vm", 0x42, _IN, s.DIRTY_LOG)
SET_USER_MEMORY_REGION = Ioctl(
    "SET_USER_MEMORY_REGION", "vm", 0x46, _IN, s.USERSPACE_MEMORY_REGION, C.USER_MEMORY
)
SET_TSS_ADDR = Ioctl("SET_TSS_ADDR", "vm", 0x47, capability=C.SET_TSS_ADDR)
SET_IDENTITY_MAP_ADDR = Ioctl(
    "SET_IDENTITY_MAP_ADDR", "vm", 0x48, _IN, U64, C.SET_IDENTITY_MAP_ADDR
)
CREATE_IRQCHIP = Ioctl("CREATE_IRQCHIP", "vm", 0x60, capability=C.IRQCHIP)
IRQ_LINE = Ioctl("IRQ_LINE", "vm", 0x61, _IN, s.IRQ_LEVEL, C.IRQCHIP)
GET_IRQCHIP = Ioctl("GET_IRQCHIP", "vm", 0x62, _BOTH, s.IRQCHIP, C.IRQCHIP)
# The number says "read", but the kernel takes the argument: a slip of 2007 that is now law.
SET_IRQCHIP = Ioctl("SET_IRQCHIP", "vm", 0x63, _OUT, s.IRQCHIP, C.IRQCHIP)
REGISTER_COALESCED_MMIO = Ioctl(
    "REGISTER_COALESCED_MMIO", "vm", 0x67, _IN, s.COALESCED_MMIO_ZONE, C.COALESCED_MMIO
)
UNREGISTER_COALESCED_MMIO = Ioctl(
    "UNREGISTER_COALESCED_MMIO", "vm", 0x68, _IN, s.COALESCED_MMIO_ZONE, C.COALESCED_MMIO
)
SET_GSI_ROUTING = Ioctl("SET_GSI_ROUTING", "vm", 0x6A, _IN, s.IRQ_ROUTING, C.IRQ_ROUTING)
IRQFD = Ioctl("IRQFD", "vm", 0x76, _IN, s.IRQFD, C.IRQFD)
CREATE_PIT2 = Ioctl("CREATE_PIT2", "vm", 0x77, _IN, s.PIT_CONFIG, C.PIT2)
IOEVENTFD = Ioctl("IOEVENTFD", "vm", 0x79, _IN, s.IOEVENTFD, C.IOEVENTFD)
SET_CLOCK = Ioctl("SET_CLOCK", "vm", 0x7B, _IN, s.CLOCK_DATA, C.ADJUST_CLOCK)
GET_CLOCK = Ioctl("GET_CLOCK", "vm", 0x7C, _OUT, s.CLOCK_DATA, C.ADJUST_CLOCK)
GET_PIT2 = Ioctl("GET_PIT2", "vm", 0x9F, _OUT, s.PIT_STATE2, C.PIT_STATE2)
SET_PIT2 = Ioctl("SET_PIT2", "vm", 0xA0, _IN, s.PIT_STATE2, C.PIT_STATE2)
ENABLE_CAP = Ioctl("ENABLE_CAP", "vm", 0xA3, _IN, s.ENABLE_CAP, C.ENABLE_CAP_VM)
SIGNAL_MSI = Ioctl("SIGNAL_MSI", "vm", 0xA5, _IN, s.MSI, C.SIGNAL_MSI)
CREATE_DEVICE = Ioctl("CREATE_DEVICE", "vm", 0xE0, _BOTH, s.CREATE_DEVICE, C.DEVICE_CTRL)

RUN = Ioctl("RUN", "vcpu", 0x80)
GET_REGS = Ioctl("GET_REGS", "vcpu", 0x81, _OUT, s.REGS)
SET_REGS = Ioctl("SET_REGS", "vcpu", 0x82, _IN, s.REGS)
GET_SREGS = Ioctl("GET_SREGS", "vcpu", 0x83, _OUT, s.SREGS)
SET_SREGS = Ioctl("SET_SREGS", "vcpu", 0x84, _IN, s.SREGS)
TRANSLATE = Ioctl("TRANSLATE", "vcpu", 0x85, _BOTH, s.TRANSLATION)
INTERRUPT = Ioctl("INTERRUPT", "vcpu", 0x86, _IN, s.INTERRUPT)
GET_MSRS = Ioctl("GET_MSRS", "vcpu", 0x88, _BOTH, s.MSRS)
SET_MSRS = Ioctl("SET_MSRS", "vcpu", 0x89, _IN, s.MSRS)
GET_FPU = Ioctl("GET_FPU", "vcpu", 0x8C, _OUT, s.FPU)
SET_FPU = Ioctl("SET_FPU", "vcpu", 0x8D, _IN, s.FPU)
GET_LAPIC = Ioctl("GET_LAPIC", "vcpu", 0x8E, _OUT, s.LAPIC_STATE, C.IRQCHIP)
SET_LAPIC = Ioctl("SET_LAPIC", "vcpu", 0x8F, _IN, s.LAPIC_STATE, C.IRQCHIP)
SET_CPUID2 = Ioctl("SET_CPUID2", "vcpu", 0x90, _IN, s.CPUID2, C.EXT_CPUID)
GET_CPUID2 = Ioctl("GET_CPUID2", "vcpu", 0x91, _BOTH, s.CPUID2, C.EXT_CPUID)
GET_MP_STATE = Ioctl("GET_MP_STATE", "vcpu", 0x98, _OUT, s.MP_STATE, C.MP_STATE)
SET_MP_STATE = Ioctl("SET_MP_STATE", "vcpu", 0x99, _IN, s.MP_STATE, C.MP_STATE)
NMI = Ioctl("NMI", "vcpu", 0x9A, capability=C.USER_NMI)
SET_GUEST_DEBUG = Ioctl("SET_GUEST_DEBUG", "vcpu", 0x9B, _IN, s.GUEST_DEBUG, C.SET_GUEST_DEBUG)
GET_VCPU_EVENTS = Ioctl("GET_VCPU_EVENTS", "vcpu", 0x9F, _OUT, s.VCPU_EVENTS, C.VCPU_EVENTS)
SET_VCPU_EVENTS = Ioctl("SET_VCPU_EVENTS", "vcpu", 0xA0, _IN, s.VCPU_EVENTS, C.VCPU_EVENTS)
GET_DEBUGREGS = Ioctl("GET_DEBUGREGS", "vcpu", 0xA1, _OUT, s.DEBUGREGS, C.DEBUGREGS)
SET_DEBUGREGS = Ioctl("SET_DEBUGREGS", "vcpu", 0xA2, _IN, s.DEBUGREGS, C.DEBUGREGS)
SET_TSC_KHZ = Ioctl("SET_TSC_KHZ", "vcpu", 0xA2, capability=C.TSC_CONTROL)
GET_TSC_KHZ = Ioctl("GET_TSC_KHZ", "vcpu", 0xA3, capability=C.GET_TSC_KHZ)
GET_XSAVE = Ioctl("GET_XSAVE", "vcpu", 0xA4, _OUT, s.XSAVE, C.XSAVE)
SET_XSAVE = Ioctl("SET_XSAVE", "vcpu", 0xA5, _IN, s.XSAVE, C.XSAVE)
GET_XCRS = Ioctl("GET_XCRS", "vcpu", 0xA6, _OUT, s.XCRS, C.XCRS)
SET_XCRS = Ioctl("SET_XCRS", "vcpu", 0xA7, _IN, s.XCRS, C.XCRS)
KVMCLOCK_CTRL = Ioctl("KVMCLOCK_CTRL", "vcpu", 0xAD, capability=C.KVMCLOCK_CTRL)
GET_XSAVE2 = Ioctl("GET_XSAVE2", "vcpu", 0xCF, _OUT, s.XSAVE, C.XSAVE2)

SET_DEVICE_ATTR = Ioctl("SET_DEVICE_ATTR", "device", 0xE1, _IN, s.DEVICE_ATTR, C.DEVICE_CTRL)
GET_DEVICE_ATTR = Ioctl("GET_DEVICE_ATTR", "device", 0xE2, _IN, s.DEVICE_ATTR, C.DEVICE_CTRL)
HAS_DEVICE_ATTR = Ioctl("HAS_DEVICE_ATTR", "device", 0xE3, _IN, s.DEVICE_ATTR, C.DEVICE_CTRL)
del C

IOCTLS: tuple[Ioctl, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Ioctl)
)
"""All rows, for the test against the kernel's headers."""


class ExitReason(IntEnum):
    """``exit_reason`` of the shared page."""

    UNKNOWN = 0
    EXCEPTION = 1
    IO = 2
    DEBUG = 4
    HLT = 5
    MMIO = 6
    IRQ_WINDOW_OPEN = 7
    SHUTDOWN = 8
    FAIL_ENTRY = 9
    INTR = 10
    SET_TPR = 11
    TPR_ACCESS = 12
    NMI = 16
    INTERNAL_ERROR = 17
    WATCHDOG = 21
    SYSTEM_EVENT = 24
    IOAPIC_EOI = 26


IO_IN, IO_OUT = 0, 1
MEM_LOG_DIRTY_PAGES, MEM_READONLY = 1, 2
IRQFD_DEASSIGN = 1
IOEVENTFD_DATAMATCH, IOEVENTFD_PIO, IOEVENTFD_DEASSIGN = 1, 2, 4
GUESTDBG_ENABLE, GUESTDBG_SINGLESTEP, GUESTDBG_USE_SW_BP = 1, 2, 0x10000
GUESTDBG_USE_HW_BP, GUESTDBG_BLOCKIRQ = 0x20000, 0x100000
CPUID_SIGNIFICANT_INDEX = 1
MP_STATE_RUNNABLE, MP_STATE_UNINITIALIZED, MP_STATE_HALTED = 0, 1, 3
CHIP_PIC_MASTER, CHIP_PIC_SLAVE, CHIP_IOAPIC = 0, 1, 2
ROUTING_IRQCHIP, ROUTING_MSI = 1, 2
PIT_SPEAKER_DUMMY = 1
