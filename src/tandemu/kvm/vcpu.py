"""A vCPU of KVM: `accel.Vcpu`. Exits are read from the page shared with the kernel.

`KVM_RUN` releases the interpreter lock. A kick sets ``immediate_exit`` there and, if the
thread is inside the kernel, sends it a real-time signal (`tandemu.kvm.kick`). One that comes
just before or behind `KVM_RUN` does nothing, and ``immediate_exit`` ends the next `KVM_RUN`
at once: no kick is lost.

KVM finishes an access it reported only when it is entered again, so registers are read
after entering once more with ``immediate_exit``. Left out: Hyper-V and Xen exits.
"""

from __future__ import annotations

import mmap
import struct
from collections import deque
from collections.abc import Mapping, Sequence
from fcntl import ioctl
from threading import Lock, get_ident, get_native_id
from typing import TYPE_CHECKING

from tandemu.accel import (
    EntryFailed,
    Exit,
    Fence,
    Interrupted,
    MmioRead,
    MmioWrite,
    PortRead,
    PortWrite,
    Shutdown,
    Unsupported,
)
from tandemu.bits import mask
from tandemu.kvm import abi, cpuid, kick, registers
from tandemu.kvm.abi import Capability, ExitReason
from tandemu.kvm.calls import File
from tandemu.kvm.coalescing import CoalescedPort
from tandemu.kvm.errors import KvmError
from tandemu.kvm.structures import (
    EXIT_DEBUG,
    EXIT_FAIL_ENTRY,
    EXIT_HARDWARE,
    EXIT_INTERNAL,
    EXIT_IO,
    EXIT_MMIO,
    GUEST_DEBUG,
    RUN,
    TRANSLATION,
)
from tandemu.kvm.system import cpuid_table, has_hardware

if TYPE_CHECKING:
    from tandemu.kvm.vm import KvmVm

NMI_LINE = 2
_FIRST_VECTOR = 16

_RUN = abi.RUN.code
_REASON_WORD = RUN.offset("exit_reason") // 4
_IMMEDIATE_EXIT = RUN.offset("immediate_exit")
_EXIT = RUN.offset("exit")
_EXIT_QUAD = _EXIT // 8
_MOST_KNOWN_PORTS = 64
_IO = struct.Struct("<BBHIQ")
_MMIO = struct.Struct("<Q8sIB")
_MMIO_DATA = _EXIT + EXIT_MMIO.offset("data")
assert _IO.size == EXIT_IO.size and _MMIO.size == EXIT_MMIO.offset("is_write") + 1

_KnownPort = tuple[int, PortRead | None, tuple[PortWrite, ...] | None, CoalescedPort | None]
"""Size; the exit of a read, or those of a write of one byte by its value; who counts those."""

_INTERRUPTED = Interrupted()
_IO_REASON, _MMIO_REASON = int(ExitReason.IO), int(ExitReason.MMIO)
_SUBERRORS = {
    1: "an instruction it cannot emulate",
    2: "an exit while an event was delivered",
    3: "an exit it did not expect",
    4: "a vCPU state it cannot deliver events in",
}


def _hint() -> str:
    if has_hardware():
        return ""
    return (
        ". This host's KVM is software, which stock kernels ask too much of: use a host with"
        " VMX or SVM (in a virtual machine: with nested virtualization)"
    )


class KvmVcpu:
    """One processor. All but `kick` and `set_interrupt` belongs to the thread that runs it."""

    def __init__(self, vm: KvmVm, index: int) -> None:
        self.index = index
        self._vm = vm
        self.file = File(vm.file.number(abi.CREATE_VCPU, index))
        try:
            self._page = mmap.mmap(self.file.fd, vm.system.shared_page_bytes)
        except BaseException:
            self.file.close()
            raise
        self._view = memoryview(self._page)
        self._words = self._view.cast("I")
        self._quads = self._view.cast("Q")
        self._known_ports: dict[int, _KnownPort] = {}
        """Exits by the first eight bytes of what KVM says about an access to a port."""
        self.exits = 0
        self._lock = Lock()
        self._owner = self._thread = 0
        """The thread that runs it, or did last: Python's number and the kernel's."""
        self._inside = False
        self._kicked = False
        self._unfinished = False
        """Whether KVM has an access to finish, which it does when it is entered again."""
        self._answer_at = 0
        self._answer_size = 0
        self._more: deque[tuple[int, int]] = deque()
        """Where the further elements of a string instruction stand: offset and size."""
        self._more_port = 0
        self._more_out = False
        self._waiting: Exit | None = None
        """An exit that came while an access was finished: the next one `run` returns."""
        self._control = 0
        """What KVM was told of debugging (KVM_GUESTDBG_*), and what `run` wants of that."""
        self._wanted = 0
        self.registers = registers.Registers(self.file, vm.file, vm.system)
        self._prepared = False

    def _prepare(self) -> None:
        """Tell the processor what CPUID says, which depends on how many there are."""
        self._prepared = True
        deadline = bool(self._vm.system.capability(Capability.TSC_DEADLINE_TIMER))
        entries = cpuid.for_vcpu(
            self._vm.cpuid, self.index, len(self._vm.vcpus), tsc_deadline=deadline
        )
        self.file.structure(abi.SET_CPUID2, cpuid_table(entries))

    # Running -----------------------------------------------------------------------------

    def run(self) -> Exit:
        """Run guest code until an exit."""
        if self._control != self._wanted:
            self._settle()
            self._set_debugging(self._wanted)
        return self._run()

    def _run(self) -> Exit:
        if self._waiting is not None or self._more:
            return self._postponed()
        if get_ident() != self._owner:
            self._adopt_thread()
        words = self._words
        while True:
            if self._kicked:
                self._kicked = False
                return _INTERRUPTED
            self._unfinished = False
            try:
                self._inside = True
                ioctl(self.file.fd, _RUN, 0)
            except OSError as error:
                if not isinstance(error, InterruptedError | BlockingIOError):
                    return self._failed(error)
                self._interrupted()
                self._take_coalesced()
                continue
            finally:
                self._inside = False
            self.exits += 1
            self._take_coalesced()
            reason = words[_REASON_WORD]
            if reason == _IO_REASON:
                known = self._known_ports.get(self._quads[_EXIT_QUAD])
                return self._port_exit() if known is None else self._known_port_exit(known)
            if reason == _MMIO_REASON:
                return self._memory_exit()
            exit = self._rare_exit(reason)
            if exit is not None:
                return exit

    def step(self, *, interrupts: bool = True) -> Exit:
        """Run exactly one instruction; `Stopped` when nothing else happened.

        An instruction that is answered from outside is over when it is completed:
        the next step runs the instruction behind it. Breakpoints at it do not count.
        """
        self._settle()
        stepping = abi.GUESTDBG_ENABLE | abi.GUESTDBG_SINGLESTEP
        blocks = not interrupts and self._vm.blocks_interrupts
        self._set_debugging(stepping | (abi.GUESTDBG_BLOCKIRQ if blocks else 0))
        return self._run()

    def _take_coalesced(self) -> None:
        """What the guest wrote before it left the kernel comes before the reason why it left."""
        coalesced = self._vm.coalesced
        if coalesced is not None and coalesced.waiting:
            coalesced.drain()

    def _port_exit(self) -> Exit:
        view = self._view
        direction, size, port, count, offset = _IO.unpack_from(view, _EXIT)
        self._unfinished = True
        if count != 1:
            self._more.extend((offset + size * number, size) for number in range(1, count))
            self._more_port, self._more_out = port, direction == abi.IO_OUT
        elif len(self._known_ports) < _MOST_KNOWN_PORTS:
            self._note_port(direction == abi.IO_OUT, size, port)
        if direction == abi.IO_OUT:
            self._answer_size = 0
            return PortWrite(port, size, self._number(offset, size))
        self._answer_at, self._answer_size = offset, size
        return PortRead(port, size)

    def _note_port(self, out: bool, size: int, port: int) -> None:
        """Keep the exits of an access that may come again: making one takes long."""
        head = self._quads[_EXIT_QUAD]
        if not out:
            self._known_ports[head] = (size, PortRead(port, size), None, None)
        elif size == 1:
            writes = tuple(PortWrite(port, 1, value) for value in range(256))
            coalesced = self._vm.coalesced
            counts = coalesced if coalesced is not None and coalesced.port == port else None
            self._known_ports[head] = (size, None, writes, counts)

    def _known_port_exit(self, known: _KnownPort) -> Exit:
        size, read, writes, counts = known
        self._unfinished = True
        offset = self._quads[_EXIT_QUAD + 1]
        if writes is not None:
            self._answer_size = 0
            if counts is not None:
                counts.wrote()
            return writes[self._view[offset]]
        assert read is not None
        self._answer_at, self._answer_size = offset, size
        return read

    def _memory_exit(self) -> Exit:
        address, data, size, is_write = _MMIO.unpack_from(self._view, _EXIT)
        self._unfinished = True
        size = min(size, 8)
        if is_write:
            self._answer_size = 0
            return MmioWrite(address, size, int.from_bytes(data[:size], "little"))
        self._answer_at, self._answer_size = _MMIO_DATA, size
        return MmioRead(address, size)

    def _postponed(self) -> Exit:
        """What came earlier than it could be returned."""
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            return waiting
        offset, size = self._more.popleft()
        if self._more_out:
            return PortWrite(self._more_port, size, self._number(offset, size))
        self._answer_at, self._answer_size = offset, size
        return PortRead(self._more_port, size)

    def _number(self, offset: int, size: int) -> int:
        return int.from_bytes(self._view[offset : offset + size], "little")

    def _rare_exit(self, reason: int) -> Exit | None:
        view = self._view
        if reason == ExitReason.DEBUG:
            debug = EXIT_DEBUG.over(view, _EXIT)
            return self._vm.debugging.exit(debug.exception, debug.pc, debug.dr6)
        if reason == ExitReason.SHUTDOWN:
            return Shutdown(f"a triple fault: {self._where()}")
        if reason == ExitReason.FAIL_ENTRY:
            code = EXIT_FAIL_ENTRY.over(view, _EXIT).hardware_entry_failure_reason
            return EntryFailed(
                code,
                f"the processor refuses to enter the guest, hardware reason {code:#x}:"
                f" {self._where()}; its state is not one this processor can be in",
            )
        if reason == ExitReason.INTERNAL_ERROR:
            return self._internal_error()
        if reason in (ExitReason.INTR, ExitReason.IRQ_WINDOW_OPEN, ExitReason.IOAPIC_EOI):
            return None
        if reason == ExitReason.UNKNOWN:
            code = EXIT_HARDWARE.over(view, _EXIT).hardware_exit_reason
            return Unsupported(reason, f"hardware exit {code:#x} unknown to KVM: {self._where()}")
        name = ExitReason(reason).name if reason in set(ExitReason) else "unknown to Tandemu"
        return Unsupported(reason, f"KVM exit {reason} ({name}): {self._where()}")

    def _internal_error(self) -> Exit:
        error = EXIT_INTERNAL.over(self._view, _EXIT)
        data = list(error.data[: min(error.ndata, 16)])
        what = _SUBERRORS.get(error.suberror, f"internal error {error.suberror}")
        shown = " ".join(f"{word:#x}" for word in data)
        return Unsupported(
            ExitReason.INTERNAL_ERROR,
            f"KVM met {what}: {self._where()}; its data: {shown}{_hint()}",
        )

    def _failed(self, error: OSError) -> Exit:
        return Unsupported(-(error.errno or 0), f"KVM_RUN fails: {error.strerror}")

    def _where(self) -> str:
        try:
            return registers.one_line(self.registers)
        except KvmError as error:
            return f"its registers cannot be read ({error})"

    def _interrupted(self) -> None:
        """`KVM_RUN` ended early: take the request that was the reason."""
        # The order matters: `kick` sets the flag before this byte.
        self._view[_IMMEDIATE_EXIT] = 0

    def _adopt_thread(self) -> None:
        """From now on kicks go to this thread."""
        if not self._prepared:
            self._prepare()
        kick.prepare_thread()
        self._owner, self._thread = get_ident(), get_native_id()

    def complete(self, value: int | None) -> None:
        """Answer the last read or write; None: nothing is there, which reads as all ones."""
        size = self._answer_size
        if size:
            at = self._answer_at
            bits = mask(size * 8)
            answer = bits if value is None else value & bits
            self._view[at : at + size] = answer.to_bytes(size, "little")

    def settle(self) -> Exit | None:
        """Finish what was answered; see `accel.Vcpu.settle`."""
        self._settle()
        if self._waiting is not None or self._more:
            return self._postponed()
        return None

    def _settle(self) -> None:
        """Have KVM finish the access it reported, so that the registers are what they seem."""
        if not self._prepared:
            self._prepare()
        if not self._unfinished or self._more or self._waiting is not None:
            return
        self._view[_IMMEDIATE_EXIT] = 1
        self._unfinished = False
        try:
            ioctl(self.file.fd, _RUN, 0)
        except (InterruptedError, BlockingIOError):
            pass
        else:
            # The access has a second part (across a page, or of a string).
            reason = self._words[_REASON_WORD]
            if reason == _IO_REASON:
                self._waiting = self._port_exit()
            elif reason == _MMIO_REASON:
                self._waiting = self._memory_exit()
        finally:
            self._view[_IMMEDIATE_EXIT] = 0
            if self._kicked:  # after the line above: a kick between the two is seen
                self._view[_IMMEDIATE_EXIT] = 1

    def debug(self) -> None:
        """Have the VM's debug registers count from the next `run` on. It may not be running."""
        in_use = bool(self._vm.debugging.all)
        self._wanted = abi.GUESTDBG_ENABLE | abi.GUESTDBG_USE_HW_BP if in_use else 0
        self._control = -1

    def _set_debugging(self, control: int) -> None:
        if control != self._control:
            request = GUEST_DEBUG.ctype(control=control)
            if control & abi.GUESTDBG_USE_HW_BP:
                for number, value in enumerate(self._vm.debugging.values):
                    request.arch[number] = value
            self.file.structure(abi.SET_GUEST_DEBUG, request)
            self._control = control

    # From any thread ---------------------------------------------------------------------

    def kick(self) -> None:
        """Make `run` return `Interrupted` soon. Any thread; not lost if not running."""
        self._kicked = True
        self.nudge()

    def nudge(self) -> None:
        """Make the thread leave the kernel for a moment, unless it has. Any thread."""
        # Whoever is about to enter the kernel, and does not say so yet, finds the byte set.
        with self._lock:
            if self.file.fd >= 0:
                self._view[_IMMEDIATE_EXIT] = 1
            if self._inside:
                kick.send(self._thread)

    def set_interrupt(self, line: int, level: bool) -> None:
        """Deliver vector *line* when *level* rises: 2 is the NMI, others from 16 on."""
        if not level:
            return
        if line == NMI_LINE:
            self.file.number(abi.NMI)
        elif _FIRST_VECTOR <= line <= 255:
            self._vm.send_vector(self.index, line)
        else:
            raise KvmError(f"interrupt vector {line}: must be 2 (NMI) or from 16 to 255")

    def fence(self, fence: Fence) -> None:
        """The processor keeps its own translations and code coherent: nothing to do."""

    # State -------------------------------------------------------------------------------

    def get(self, register: str) -> int:
        """Return a register by its name: see `tandemu.kvm.registers`."""
        self._settle()
        return self.registers.get(register)

    def set(self, register: str, value: int) -> None:
        """Set a register by its name: see `tandemu.kvm.registers`."""
        self._settle()
        self.registers.set(register, value)

    def set_many(self, values: Mapping[str, int]) -> None:
        """Set registers at once, by name: some values are refused one by one."""
        self._settle()
        self.registers.set_many(values)

    @property
    def state_names(self) -> Sequence[str]:
        """See `accel.Vcpu.state_names`."""
        self._settle()
        return self.registers.state_names()

    def save(self) -> dict[str, bytes]:
        """The whole state of the processor, by the kernel's structures. It may not run."""
        self._settle()
        return self.registers.save()

    def load(self, state: dict[str, bytes]) -> None:
        """Take over what `save` returned; `KvmError` says what does not fit."""
        if not self._prepared:
            self._prepare()
        self._unfinished = False
        self._more.clear()
        self._waiting = None
        self.registers.load(state)

    def dump(self) -> str:
        """The registers as text, for people."""
        self._settle()
        return registers.dump(self.registers)

    def translate(self, linear: int) -> int | None:
        """The guest-physical address of a linear one, by the guest's tables; None: unmapped."""
        self._settle()
        request = TRANSLATION.ctype(linear_address=linear)
        self.file.structure(abi.TRANSLATE, request)
        address: int = request.physical_address
        return address if request.valid else None

    def close(self) -> None:
        """Free it. It may not be running."""
        with self._lock:
            if self.file.fd < 0:
                return
            self.file.close()
            self._words.release()
            self._quads.release()
            self._view.release()
            self._page.close()
