"""`System`: /dev/kvm opened, and what it offers."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cached_property

from tandemu.bits import U32, Record
from tandemu.kvm import abi
from tandemu.kvm.abi import Capability
from tandemu.kvm.calls import File, with_entries
from tandemu.kvm.errors import KvmError, refused
from tandemu.kvm.structures import CPUID2, CPUID_ENTRY2, MSR_LIST

Path = str | os.PathLike[str]

NODE: Path = "/dev/kvm"
REQUIRED = (
    Capability.USER_MEMORY,
    Capability.IRQCHIP,
    Capability.EXT_CPUID,
    Capability.MP_STATE,
    Capability.VCPU_EVENTS,
    Capability.XSAVE,
    Capability.IRQFD,
    Capability.IOEVENTFD,
    Capability.SIGNAL_MSI,
    Capability.ADJUST_CLOCK,
    Capability.SET_GUEST_DEBUG,
    Capability.IMMEDIATE_EXIT,
)
"""What every Linux since 4.12 has and this engine does not do without."""

_MOST_ENTRIES = 4096


def has_hardware(processors: Path = "/proc/cpuinfo") -> bool:
    """Whether the processor shows the extensions that KVM uses."""
    try:
        with open(processors, encoding="ascii", errors="replace") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() == "flags":
                    flags = value.split()
                    return "vmx" in flags or "svm" in flags
    except OSError:
        pass
    return False


class CpuidEntry(Record):
    """One answer of the CPUID instruction, for *function* (EAX) and *index* (ECX)."""

    function: int
    index: int
    flags: int
    eax: int
    ebx: int
    ecx: int
    edx: int


class System(File):
    """The host's KVM. `KvmError` says what is missing and the mend."""

    def __init__(self, node: Path = NODE) -> None:
        try:
            fd = os.open(node, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise refused(f"{node} cannot be opened", error.errno or errno.EIO) from None
        super().__init__(fd)
        try:
            self._check(node)
        except BaseException:
            self.close()
            raise

    def _check(self, node: Path) -> None:
        self.api_version = self.attempt(abi.GET_API_VERSION)
        if self.api_version != abi.API_VERSION:
            found = f"version {self.api_version}" if self.api_version >= 0 else "no KVM at all"
            raise KvmError(
                f"{node} offers {found} where version {abi.API_VERSION} is needed: use a kernel"
                " of this century's second decade or newer"
            )
        missing = [one.name for one in REQUIRED if not self.capability(one)]
        if missing:
            raise KvmError(
                f"this host's KVM lacks {', '.join(missing)}: use Linux 4.12 or newer, or"
                " --accel jit"
            )

    def capability(self, capability: Capability) -> int:
        """What the kernel says about *capability*; 0: it has it not."""
        return max(self.attempt(abi.CHECK_EXTENSION, capability), 0)

    @cached_property
    def shared_page_bytes(self) -> int:
        """Size of what a vCPU shares with user space."""
        return self.number(abi.GET_VCPU_MMAP_SIZE)

    @cached_property
    def xsave_bytes(self) -> int:
        """Size of the largest XSAVE area a guest may have."""
        return max(self.capability(Capability.XSAVE2), 4096)

    @cached_property
    def supported_cpuid(self) -> tuple[CpuidEntry, ...]:
        """What the host's processor and KVM can let a guest see."""
        count = 64
        while count <= _MOST_ENTRIES:
            table = with_entries(CPUID2, CPUID_ENTRY2.ctype, count)
            table.header.nent = count
            try:
                self.structure(abi.GET_SUPPORTED_CPUID, table)
            except KvmError as error:
                if error.errno != errno.E2BIG:
                    raise
                count *= 2
                continue
            return tuple(
                CpuidEntry(
                    entry.function,
                    entry.index,
                    entry.flags,
                    entry.eax,
                    entry.ebx,
                    entry.ecx,
                    entry.edx,
                )
                for entry in table.entries[: table.header.nent]
            )
        raise KvmError(f"KVM has more than {_MOST_ENTRIES} CPUID entries; use another kernel")

    @cached_property
    def msr_indices(self) -> tuple[int, ...]:
        """The model-specific registers that make up a guest's state."""
        count = 0
        while count <= _MOST_ENTRIES:
            table = with_entries(MSR_LIST, U32.ctype, count)
            table.header.nmsrs = count
            try:
                self.structure(abi.GET_MSR_INDEX_LIST, table)
            except KvmError as error:
                if error.errno != errno.E2BIG or table.header.nmsrs <= count:
                    raise
                count = table.header.nmsrs
                continue
            return tuple(table.entries[: table.header.nmsrs])
        raise KvmError(f"KVM has more than {_MOST_ENTRIES} MSRs; use another kernel")

    def create_vm(self) -> File:
        """A new, empty VM's file."""
        while True:
            result = self.attempt(abi.CREATE_VM)
            if result >= 0:
                return File(result)
            if result != -errno.EINTR:
                raise refused("KVM_CREATE_VM fails", -result)


def cpuid_table(entries: tuple[CpuidEntry, ...]) -> ctypes.Structure:
    """*entries* as the structure that ``KVM_SET_CPUID2`` takes."""
    table = with_entries(CPUID2, CPUID_ENTRY2.ctype, len(entries))
    table.header.nent = len(entries)
    for number, entry in enumerate(entries):
        table.entries[number] = CPUID_ENTRY2.ctype(**entry.parts())
    structure: ctypes.Structure = table
    return structure
