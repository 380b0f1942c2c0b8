"""What every engine offers, in the shape of KVM's own interface.

A `Vm` holds memory slots and vCPUs. `Vcpu.run` runs guest code on the calling
thread until something needs the machine's attention and returns an `Exit`, one
of a closed union of values. Interrupt lines, kicks and fences may be set from
any thread; everything else about a vCPU belongs to the thread that runs it.

Waiting for an interrupt (RISC-V WFI, x86 HLT) happens inside `run`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar, NamedTuple, Protocol

from tandemu.accel.capability import Capability
from tandemu.accel.profile import Profile
from tandemu.memory import GuestMemory, RamRegion


class MmioRead(NamedTuple):
    """The guest reads *size* bytes at a guest-physical address that is not RAM.

    Answer with `Vcpu.complete(value)`, or `complete(None)` if nothing is there.
    """

    address: int
    size: int


class MmioWrite(NamedTuple):
    """The guest writes *value*, *size* bytes, where there is no RAM (or ROM).

    Answer with `Vcpu.complete(0)`, or `complete(None)` if nothing is there.
    """

    address: int
    size: int
    value: int


class PortRead(NamedTuple):
    """The guest reads *size* bytes (1, 2, 4) from I/O port *port* (x86 IN).

    Answer with `Vcpu.complete(value)`, or `complete(None)` if nothing is there.
    """

    port: int
    size: int


class PortWrite(NamedTuple):
    """The guest writes *value*, *size* bytes, to I/O port *port* (x86 OUT); needs no answer."""

    port: int
    size: int
    value: int


class FirmwareCall(NamedTuple):
    """The guest calls built-in firmware (RISC-V: ECALL from S-mode to the SBI).

    Only on a VM created with *firmware_calls*. The program counter stands after
    the call; results go into registers through `Vcpu.set`.
    """


class Interrupted(NamedTuple):
    """`Vcpu.kick` was called; nothing else happened."""


class BreakpointHit(NamedTuple):
    """A breakpoint that a debugger set (`DebuggableVm`): the program counter stands at *pc*."""

    pc: int


class WatchpointHit(NamedTuple):
    """An instruction that has run accessed *size* bytes at *address*, some of them watched.

    The program counter stands at *pc*, behind it. *reads* and *writes* say what it did there.
    """

    pc: int
    address: int
    size: int
    reads: bool
    writes: bool


class Stopped(NamedTuple):
    """A step or an instruction limit ended; the program counter stands at *pc*."""

    pc: int


class Unsupported(NamedTuple):
    """The engine met what it cannot run; *code* is the engine's own, *reason* says it."""

    code: int
    reason: str


class Shutdown(NamedTuple):
    """The processor shut itself down (x86: a triple fault); *reason* says where it stood."""

    reason: str


class EntryFailed(NamedTuple):
    """The hardware refused to enter the guest: *code* is its reason, *reason* says it."""

    code: int
    reason: str


Exit = (
    MmioRead
    | MmioWrite
    | PortRead
    | PortWrite
    | FirmwareCall
    | Interrupted
    | BreakpointHit
    | WatchpointHit
    | Stopped
    | Unsupported
    | Shutdown
    | EntryFailed
)


class Fence(NamedTuple):
    """A fence that one vCPU asks of another (SBI RFENCE; TLB shoot-down).

    *instructions*: forget translated code that has changed (FENCE.I). Otherwise
    forget translations of guest-virtual addresses *start* to *start* + *size*
    (size 0: all) of address space *asid* (None: all).
    """

    instructions: bool = False
    start: int = 0
    size: int = 0
    asid: int | None = None


class Watch(NamedTuple):
    """Bytes *first* to *last*, by guest-virtual address, and which accesses of them count."""

    first: int
    last: int
    reads: bool
    writes: bool


class Vcpu(Protocol):
    """One virtual processor."""

    index: int

    def run(self) -> Exit:
        """Run guest code until an exit."""

    def step(self, *, interrupts: bool = True) -> Exit:
        """Run exactly one instruction; `Stopped` when nothing else happened.

        Breakpoints at it do not count. Without *interrupts* none is delivered.
        """

    def complete(self, value: int | None) -> None:
        """Answer the last read or write; None: nothing is there (a bus error; x86: all ones)."""

    def settle(self) -> Exit | None:
        """Finish what the last answer is for, and nothing else.

        None: the processor stands between two instructions, with no half-done access, and its
        registers are what they seem. Another exit is to be answered first, and this called again.
        """

    def kick(self) -> None:
        """Make `run` return `Interrupted` soon. Any thread; not lost if not running."""

    def set_interrupt(self, line: int, level: bool) -> None:
        """Set an interrupt input of this processor. Any thread.

        RISC-V: *line* is the bit in `mip` (1 SSIP, 3 MSIP, 5 STIP, 7 MTIP, 9 SEIP, 11 MEIP).
        x86: *line* is a vector, 2 the NMI, 16 and above an interrupt; a rising level counts.
        """

    def get(self, register: str) -> int:
        """Return a register by its architectural name (``pc``, ``a0``, ``mstatus``, ``f5`` …)."""

    def set(self, register: str, value: int) -> None:
        """Set a register by its architectural name."""

    def dump(self) -> str:
        """Its registers as text, for people. It may not be running."""

    def set_many(self, values: Mapping[str, int]) -> None:
        """Set registers at once, by name: some are refused one by one."""

    @property
    def state_names(self) -> Sequence[str]:
        """The registers that make up all of its architectural state, in the order to set them in.

        What they read, once it is settled, put into another processor of this kind (`set_many`)
        makes it go on as this one would. What comes from outside (wires, timers) is told apart.
        """

    def translate(self, address: int) -> int | None:
        """The guest-physical address that a load from *address* would go to now.

        None if it would trap. Its own thread, or while it is at rest.
        """

    def fence(self, fence: Fence) -> None:
        """Have this vCPU carry out *fence* before its next guest instruction. Any thread.

        Returns when that is certain.
        """


class MessageVcpu(Vcpu, Protocol):
    """One of a VM with `Capability.PROCESSOR_MESSAGES`: RISC-V's, with an interrupt file (AIA)."""

    def take_message(self, number: int) -> None:
        """Take message *number* (RISC-V: the identity of an incoming MSI). Any thread.

        A number that the processor has not is lost, and so is all if its board gave it no file
        (register ``messages.present``).
        """


class Vm(Protocol):
    """One virtual machine: memory slots, vCPUs, a clock."""

    capabilities: ClassVar[frozenset[Capability]]
    """What it can do besides."""
    memory: GuestMemory
    """What the slots hold: the one door to it for all but the vCPUs, with the dirty logs."""

    def set_memory_slot(self, region: RamRegion) -> None:
        """Map *region*; a region at the same base is replaced."""

    def remove_memory_slot(self, base: int) -> None:
        """Unmap the region at guest address *base*: accesses become exits."""

    def create_vcpu(self, index: int) -> Vcpu:
        """Create vCPU number *index*, reset."""

    def time(self) -> int:
        """The guest's clock in ticks of its time base (RISC-V: what ``rdtime`` reads)."""

    def set_time(self, ticks: int) -> None:
        """Let the guest's clock go on from *ticks*. Any thread."""

    def stop_time(self) -> None:
        """Let the guest's clock and timers stand. No vCPU may be running until `start_time`."""

    def start_time(self) -> None:
        """Let them go on from where they stand."""

    def statistics(self) -> Mapping[str, int | float]:
        """Counters by name, of all vCPUs. Any thread."""

    def controllers(self) -> Mapping[str, int]:
        """The state of interrupt controllers that are the engine's, by name; may be empty."""

    def set_controllers(self, values: Mapping[str, int]) -> None:
        """Put back what `controllers` said."""

    def close(self) -> None:
        """Free everything. No vCPU may be running."""


class ProfilingVm(Vm, Protocol):
    """One with `Capability.PROFILE`."""

    def profile(self) -> Profile:
        """Where guest code has spent its time so far. No vCPU may be running."""


class DebuggableVm(Vm, Protocol):
    """One with `Capability.DEBUG`: exits for breakpoints and watched memory.

    Addresses are guest-virtual, in whatever address space. No vCPU may be running when they are
    set.
    """

    def set_breakpoints(self, addresses: Collection[int]) -> None:
        """Have vCPUs leave (`BreakpointHit`) before the instructions at *addresses*, no others.

        `AccelError`, and all is as it was, if there are too many.
        """

    def set_watches(self, watches: Sequence[Watch]) -> None:
        """Have vCPUs leave (`WatchpointHit`) when they access one of *watches*, no others.

        What devices write is not seen. `AccelError`, and all is as it was, for what the engine
        cannot watch.
        """


class DoorbellVm(Vm, Protocol):
    """One with `Capability.DOORBELLS`.

    A doorbell is an address whose writes, whatever is written, only tell a device to look: a write
    of two bytes there adds 1 to an event descriptor (eventfd(2)) and is no exit. Writes of other
    sizes may be exits.
    """

    def connect_doorbell(self, address: int, descriptor: int) -> bool:
        """Make *address*, where there is no RAM, one; False: there are too many. Any thread."""

    def disconnect_doorbell(self, address: int, descriptor: int) -> None:
        """Let writes there be exits again, soon. Any thread; *descriptor* stays open till then."""


class PostingVm(Vm, Protocol):
    """One with `Capability.POSTED_WRITES`."""

    def post_writes(
        self, address: int, status: int, take: Callable[[bytes], None]
    ) -> Callable[[int | None], None]:
        """Let *take* have writes of one byte to *address* together, while many come.

        It is called on any thread, but before the next thing that any `Vcpu.run` returns.
        Meanwhile a read of one byte at the address *status* gives what the function that is
        returned was told last; None: it is an exit, as ever. At most once for a VM.
        """


class ControllerVm(Vm, Protocol):
    """One with `Capability.INTERRUPT_LINES`: x86's local APICs and I/O APIC."""

    def set_interrupt_line(self, gsi: int, level: bool) -> None:
        """Set an input of the interrupt controllers. Any thread."""

    def signal_message(self, address: int, data: int) -> bool:
        """Deliver an interrupt that is a message; False: no processor took it. Any thread."""

    def coalesce_port(self, port: int, take: Callable[[bytes], None]) -> None:
        """Let *take* have writes of one byte to an I/O port together, while many come.

        With `Capability.COALESCED_PORTS` only.
        """
