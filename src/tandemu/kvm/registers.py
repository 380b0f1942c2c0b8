"""The whole state of an x86-64 processor by register name, over KVM's get and set calls.

Names: ``rax`` … ``r15``, ``rip`` (also ``pc``), ``rflags``; segments as ``cs`` (selector),
``cs.base``, ``cs.limit``, ``cs.type`` …; ``gdt.base``, ``idt.limit``; ``cr0`` … ``cr8``,
``efer``, ``apic_base``, ``xcr0``; ``dr0`` … ``dr7``; MSRs by the names in `MSRS` or as
``msr.0x10``; ``fcw``, ``fsw``, ``ftw``, ``mxcsr``, ``st0`` …, ``xmm0`` …, ``ymm0`` …,
``xstate_bv``; the local APIC as ``lapic.tpr`` or ``lapic.0x80``; ``event.nmi.pending`` and
the like; ``mp_state``; ``clock`` (of the VM, ns).

A save holds the kernel's own structures, and the MSRs the kernel lists, as bytes.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Mapping
from typing import Any

from tandemu.bits import Record, mask
from tandemu.kvm import abi
from tandemu.kvm.abi import Capability, Ioctl
from tandemu.kvm.calls import File, with_entries
from tandemu.kvm.errors import KvmError
from tandemu.kvm.structures import CLOCK_DATA, MSR_ENTRY, REGS, SEGMENT
from tandemu.kvm.structures import MSRS as MSRS_HEADER
from tandemu.kvm.system import System

MSRS: dict[str, int] = {
    "tsc": 0x10,
    "ia32_apic_base": 0x1B,
    "tsc_adjust": 0x3B,
    "sysenter_cs": 0x174,
    "sysenter_esp": 0x175,
    "sysenter_eip": 0x176,
    "misc_enable": 0x1A0,
    "pat": 0x277,
    "mtrr_def_type": 0x2FF,
    "tsc_deadline": 0x6E0,
    "star": 0xC000_0081,
    "lstar": 0xC000_0082,
    "cstar": 0xC000_0083,
    "fmask": 0xC000_0084,
    "fs_base": 0xC000_0100,
    "gs_base": 0xC000_0101,
    "kernel_gs_base": 0xC000_0102,
    "tsc_aux": 0xC000_0103,
    "kvm_wall_clock": 0x4B56_4D00,
    "kvm_system_time": 0x4B56_4D01,
}
LAPIC: dict[str, int] = {
    "id": 0x20,
    "version": 0x30,
    "tpr": 0x80,
    "ppr": 0xA0,
    "ldr": 0xD0,
    "dfr": 0xE0,
    "svr": 0xF0,
    "esr": 0x280,
    "icr_low": 0x300,
    "icr_high": 0x310,
    "lvt_timer": 0x320,
    "lvt_thermal": 0x330,
    "lvt_performance": 0x340,
    "lvt_lint0": 0x350,
    "lvt_lint1": 0x360,
    "lvt_error": 0x370,
    "timer_initial": 0x380,
    "timer_current": 0x390,
    "timer_divide": 0x3E0,
    **{f"isr{n}": 0x100 + 0x10 * n for n in range(8)},
    **{f"tmr{n}": 0x180 + 0x10 * n for n in range(8)},
    **{f"irr{n}": 0x200 + 0x10 * n for n in range(8)},
}
_TIMER_MODE, _TSC_DEADLINE = 17, 2
"""The mode in lvt_timer, and the one of which the count stands in an MSR."""
_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
_X87, _SSE, _AVX = 1, 2, 4
_XSTATE_BV, _YMM_HIGH, _XMM, _ST = 512, 576, 160, 32


class _Group(Record):
    """A structure of the processor's state and the calls that get and set it."""

    get: Ioctl
    set: Ioctl


GROUPS: dict[str, _Group] = {
    "sregs": _Group(abi.GET_SREGS, abi.SET_SREGS),
    "regs": _Group(abi.GET_REGS, abi.SET_REGS),
    "xcrs": _Group(abi.GET_XCRS, abi.SET_XCRS),
    "lapic": _Group(abi.GET_LAPIC, abi.SET_LAPIC),
    "debugregs": _Group(abi.GET_DEBUGREGS, abi.SET_DEBUGREGS),
    "mp_state": _Group(abi.GET_MP_STATE, abi.SET_MP_STATE),
    "events": _Group(abi.GET_VCPU_EVENTS, abi.SET_VCPU_EVENTS),
}
"""In the order in which a state is restored; XSAVE goes before the LAPIC, the MSRs after it
(the TSC deadline counts only with the timer in that mode)."""


class _Place(Record):
    """A field of a group's structure: a path of field names and indices."""

    group: str
    path: tuple[str | int, ...]


class _Piece(Record):
    """Bytes of the XSAVE area: *size* from *offset*, of component *component*."""

    offset: int
    size: int
    component: int = 0


def _places() -> dict[str, _Place]:
    places = {name: _Place("regs", (name,)) for name in REGS.fields}
    places["pc"] = places["rip"]
    for segment in _SEGMENTS:
        places[segment] = _Place("sregs", (segment, "selector"))
        for field in SEGMENT.fields:
            if field != "padding":
                places[f"{segment}.{field}"] = _Place("sregs", (segment, field))
    for table in ("gdt", "idt"):
        places[f"{table}.base"] = _Place("sregs", (table, "base"))
        places[f"{table}.limit"] = _Place("sregs", (table, "limit"))
    for name in ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base"):
        places[name] = _Place("sregs", (name,))
    for number in range(4):
        places[f"interrupt_bitmap.{number}"] = _Place("sregs", ("interrupt_bitmap", number))
        places[f"dr{number}"] = _Place("debugregs", ("db", number))
    places["dr6"] = _Place("debugregs", ("dr6",))
    places["dr7"] = _Place("debugregs", ("dr7",))
    places["mp_state"] = _Place("mp_state", ("mp_state",))
    events = {
        "exception": ("injected", "nr", "has_error_code", "pending", "error_code"),
        "interrupt": ("injected", "nr", "soft", "shadow"),
        "nmi": ("injected", "pending", "masked"),
        "smi": ("smm", "pending", "smm_inside_nmi", "latched_init"),
    }
    for kind, fields in events.items():
        for field in fields:
            places[f"event.{kind}.{field}"] = _Place("events", (kind, field))
    places["event.sipi_vector"] = _Place("events", ("sipi_vector",))
    return places


def _pieces() -> dict[str, _Piece]:
    pieces = {
        "fcw": _Piece(0, 2, _X87),
        "fsw": _Piece(2, 2, _X87),
        "ftw": _Piece(4, 1, _X87),
        "fop": _Piece(6, 2, _X87),
        "mxcsr": _Piece(24, 4, _SSE),
        "xstate_bv": _Piece(_XSTATE_BV, 8),
    }
    pieces |= {f"st{n}": _Piece(_ST + 16 * n, 10, _X87) for n in range(8)}
    pieces |= {f"xmm{n}": _Piece(_XMM + 16 * n, 16, _SSE) for n in range(16)}
    return pieces


_PLACES = _places()
_LAPIC_BYTES = 1024
_HYPERV_TIMES = (0x4000_0010, 0x4000_0020)
"""How long the processor has run, and what the clock says, in other units."""
_PIECES = _pieces()


class Timers(Record):
    """The clock of a vCPU and its APIC's timer, as they stand."""

    tsc: int
    deadline: int
    count: int
    pending: int
    """Whether the timer's interrupt waits to be taken: the bit of its vector."""


class Registers:
    """The state of one vCPU. The calls are the kernel's; the vCPU may not be running."""

    def __init__(self, vcpu: File, vm: File, system: System) -> None:
        self._vcpu = vcpu
        self._vm = vm
        self._system = system
        self._groups = dict(GROUPS)
        if not system.capability(Capability.XCRS):  # a host without XSAVE
            del self._groups["xcrs"]

    def get(self, name: str) -> int:
        """The register called *name*; `KvmError` with the names if there is none."""
        if name in _PLACES:
            place = _PLACES[name]
            return int(_follow(self._vcpu.get(GROUPS[place.group].get), place.path))
        return self._rare(name)[0]()

    def set(self, name: str, value: int) -> None:
        """Set the register called *name*."""
        self.set_many({name: value})

    def set_many(self, values: Mapping[str, int]) -> None:
        """Set registers; those of one structure at once, as some go only together.

        Structures go in the order of `GROUPS`, so that a whole state can be set, and what is no
        field of one (floating point, the APIC, MSRs) where its comment there says.
        """
        changed: dict[str, Any] = {}
        rare = []
        for name, value in values.items():
            place = _PLACES.get(name)
            if place is None:
                rare.append(name)
                continue
            if place.group not in changed:
                changed[place.group] = self._vcpu.get(GROUPS[place.group].get)
            owner = _follow(changed[place.group], place.path[:-1])
            last = place.path[-1]
            if isinstance(last, int):
                owner[last] = value
            else:
                setattr(owner, last, value)
        for group, calls in GROUPS.items():
            if group == "lapic":
                for name in rare:
                    self._rare(name)[1](values[name])
            elif group in changed:
                self._vcpu.structure(calls.set, changed[group])

    def state_names(self) -> tuple[str, ...]:
        """All state of the processor, in an order in which it can be set."""
        return (
            *(name for name in _PLACES if name != "pc"),
            *(("xcr0",) if "xcrs" in self._groups else ()),
            "xsave",
            *(f"lapic.{offset:#x}" for offset in range(0, _LAPIC_BYTES, 16)),
            *(f"msr.{index:#x}" for index, _ in self._all_msrs() if index not in _HYPERV_TIMES),
        )

    def _rare(self, name: str) -> tuple[Callable[[], int], Callable[[int], None]]:
        """How to get and to set a register that is no field of a structure."""
        if name in _PIECES:
            piece = _PIECES[name]
            return lambda: self._piece(piece), lambda value: self._set_piece(piece, value)
        if name.startswith("ymm") and f"x{name[1:]}" in _PIECES:
            low = _PIECES[f"x{name[1:]}"]
            high = _Piece(_YMM_HIGH + low.offset - _XMM, 16, _AVX)

            def set_wide(value: int) -> None:
                self._set_piece(low, value & mask(128))
                self._set_piece(high, value >> 128)

            return lambda: self._piece(high) << 128 | self._piece(low), set_wide
        if name == "xcr0":
            return self._xcr0, self._set_xcr0
        if name == "xsave":
            return self._whole_xsave, self._set_whole_xsave
        if name == "clock":
            return lambda: int(self._vm.get(abi.GET_CLOCK).clock), self._set_clock
        if name in MSRS or name.startswith("msr."):
            index = MSRS[name] if name in MSRS else _number(name)
            return lambda: self.msr(index), lambda value: self.set_msr(index, value)
        if name.startswith("lapic."):
            short = name.removeprefix("lapic.")
            offset = LAPIC[short] if short in LAPIC else _number(name)
            return lambda: self._lapic(offset), lambda value: self._set_lapic(offset, value)
        raise KvmError(f"no register is called {name!r}; names are such as rax, cs.base, lapic.tpr")

    # MSRs ----------------------------------------------------------------------------------

    def _msr_table(self, indices: list[int]) -> Any:
        table = with_entries(MSRS_HEADER, MSR_ENTRY.ctype, len(indices))
        table.header.nmsrs = len(indices)
        for entry, index in zip(table.entries, indices, strict=True):
            entry.index = index
        return table

    def msr(self, index: int) -> int:
        """A model-specific register; `KvmError` if the guest has none such."""
        table = self._msr_table([index])
        if self._vcpu.structure(abi.GET_MSRS, table) != 1:
            raise KvmError(f"this guest has no MSR {index:#x}")
        return int(table.entries[0].data)

    def set_msr(self, index: int, value: int) -> None:
        """Set a model-specific register; `KvmError` if it has none such or not that value."""
        table = self._msr_table([index])
        table.entries[0].data = value
        # KVM does not let every one be set to what it already is.
        if self._vcpu.structure(abi.SET_MSRS, table) != 1 and self.msr(index) != value:
            raise KvmError(f"MSR {index:#x} of this guest cannot be {value:#x}")

    def _all_msrs(self) -> list[tuple[int, int]]:
        """All that KVM lists and this guest has; KVM stops at one that it has not."""
        left = list(self._system.msr_indices)
        found = []
        while left:
            table = self._msr_table(left)
            count = self._vcpu.structure(abi.GET_MSRS, table)
            found += [(entry.index, entry.data) for entry in table.entries[:count]]
            del left[: count + 1]
        return found

    # Floating point ------------------------------------------------------------------------

    def _xsave(self) -> bytearray:
        area = (ctypes.c_uint8 * self._system.xsave_bytes)()
        large = self._system.xsave_bytes > 4096
        self._vcpu.structure(abi.GET_XSAVE2 if large else abi.GET_XSAVE, area)
        return bytearray(area)

    def _set_xsave(self, content: bytes | bytearray) -> None:
        area = (ctypes.c_uint8 * self._system.xsave_bytes).from_buffer_copy(content)
        self._vcpu.structure(abi.SET_XSAVE, area)

    def _whole_xsave(self) -> int:
        return int.from_bytes(self._xsave(), "little")

    def _set_whole_xsave(self, value: int) -> None:
        try:
            self._set_xsave(value.to_bytes(self._system.xsave_bytes, "little"))
        except OverflowError:
            raise KvmError("the value of xsave is of a host with another XSAVE area") from None

    def _piece(self, piece: _Piece) -> int:
        return int.from_bytes(self._xsave()[piece.offset : piece.offset + piece.size], "little")

    def _set_piece(self, piece: _Piece, value: int) -> None:
        area = self._xsave()
        bits = value & mask(piece.size * 8)
        area[piece.offset : piece.offset + piece.size] = bits.to_bytes(piece.size, "little")
        area[_XSTATE_BV] |= piece.component
        self._set_xsave(area)

    def _xcr0(self) -> int:
        if "xcrs" not in self._groups:
            raise KvmError("this guest has no xcr0: its host is without XSAVE")
        table = self._vcpu.get(abi.GET_XCRS)
        for one in table.xcrs[: table.nr_xcrs]:
            if one.xcr == 0:
                return int(one.value)
        raise KvmError("this guest has no xcr0: its CPU model is without XSAVE")

    def _set_xcr0(self, value: int) -> None:
        table = self._vcpu.get(abi.GET_XCRS)
        table.nr_xcrs = 1
        table.xcrs[0].xcr, table.xcrs[0].value = 0, value
        self._vcpu.structure(abi.SET_XCRS, table)

    # LAPIC, clock --------------------------------------------------------------------------

    def _lapic(self, offset: int) -> int:
        return _lapic_word(self._vcpu.get(abi.GET_LAPIC), offset)

    def _set_lapic(self, offset: int, value: int) -> None:
        state = self._vcpu.get(abi.GET_LAPIC)
        _set_lapic_word(state, offset, value)
        self._vcpu.structure(abi.SET_LAPIC, state)

    def _set_clock(self, value: int) -> None:
        self._vm.structure(abi.SET_CLOCK, CLOCK_DATA.ctype(clock=value))

    def timers(self) -> Timers:
        """What `set_timers` puts back."""
        state = self._vcpu.get(abi.GET_LAPIC)
        tsc, deadline = self.msr(MSRS["tsc"]), 0
        if _lapic_word(state, LAPIC["lvt_timer"]) >> _TIMER_MODE & 3 == _TSC_DEADLINE:
            deadline = self.msr(MSRS["tsc_deadline"])
        count = _lapic_word(state, LAPIC["timer_current"])
        return Timers(tsc, deadline, count, _timer_request(state))

    def set_timers(self, timers: Timers) -> None:
        """Have clock and timer go on from there, whatever they have done meanwhile."""
        self.set_msr(MSRS["tsc"], timers.tsc)
        state = self._vcpu.get(abi.GET_LAPIC)
        _set_lapic_word(state, LAPIC["timer_current"], timers.count)
        offset, bit = _timer_place(state)
        requests = _lapic_word(state, offset)
        _set_lapic_word(state, offset, requests | bit if timers.pending else requests & ~bit)
        self._vcpu.structure(abi.SET_LAPIC, state)
        if timers.deadline:
            self.set_msr(MSRS["tsc_deadline"], timers.deadline)

    # All of it -----------------------------------------------------------------------------

    def save(self) -> dict[str, bytes]:
        """Everything, by group."""
        # Reading mp_state first lets KVM take up what is pending (INIT, SIPI).
        state = {"mp_state": bytes(self._vcpu.get(abi.GET_MP_STATE))}
        for name, group in self._groups.items():
            state[name] = bytes(self._vcpu.get(group.get))
        state["xsave"] = bytes(self._xsave())
        state["msrs"] = b"".join(struct.pack("<QQ", *pair) for pair in self._all_msrs())
        return state

    def load(self, state: dict[str, bytes]) -> None:
        """Restore what `save` returned; `KvmError` if it is of another shape."""
        odd = state.keys() ^ {*self._groups, "xsave", "msrs"}
        if odd:
            raise KvmError(f"the saved processor state differs in: {', '.join(sorted(odd))}")
        if len(state["xsave"]) != self._system.xsave_bytes or len(state["msrs"]) % 16:
            raise KvmError("the saved processor state is of a host with another XSAVE area")
        for name, group in self._groups.items():
            layout: Any = group.get.argument
            if len(state[name]) != layout.size:
                raise KvmError(f"the saved {name} have {len(state[name])} bytes, not {layout.size}")
        for name, group in self._groups.items():
            layout = group.get.argument
            if name == "lapic":
                self._set_xsave(state["xsave"])
            self._vcpu.structure(group.set, layout.ctype.from_buffer_copy(state[name]))
            if name == "lapic":
                self._load_msrs(state["msrs"])

    def _load_msrs(self, content: bytes) -> None:
        left = list(struct.iter_unpack("<QQ", content))
        while left:
            table = self._msr_table([index & mask(32) for index, _ in left])
            for entry, (_, value) in zip(table.entries, left, strict=True):
                entry.data = value
            count = self._vcpu.structure(abi.SET_MSRS, table)
            # KVM stops at one it does not let be set to what it already is: skip that.
            if count < len(left) and self.msr(left[count][0]) != left[count][1]:
                index, value = left[count]
                raise KvmError(f"MSR {index:#x} of this guest cannot be {value:#x}")
            del left[: count + 1]


def _lapic_word(state: Any, offset: int) -> int:
    return int.from_bytes(bytes(state.regs)[offset & 0x3FC :][:4], "little")


def _set_lapic_word(state: Any, offset: int, value: int) -> None:
    for number, byte in enumerate((value & mask(32)).to_bytes(4, "little")):
        state.regs[(offset & 0x3FC) + number] = byte


def _timer_place(state: Any) -> tuple[int, int]:
    """Where the APIC's timer asks for its interrupt: offset of a register, and the bit there."""
    vector = _lapic_word(state, LAPIC["lvt_timer"]) & 0xFF
    return LAPIC["irr0"] + 0x10 * (vector >> 5), 1 << (vector & 31)


def _timer_request(state: Any) -> int:
    offset, bit = _timer_place(state)
    return _lapic_word(state, offset) & bit


def _follow(structure: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        structure = structure[step] if isinstance(step, int) else getattr(structure, step)
    return structure


def _number(name: str) -> int:
    try:
        return int(name.partition(".")[2], 0) & mask(32)
    except ValueError:
        raise KvmError(f"no register is called {name!r}; give a known name or a number") from None


def one_line(registers: Registers) -> str:
    """Where the processor stands, in a few words."""
    shown = " ".join(
        f"{name} {registers.get(name):#x}" for name in ("cs", "rip", "rsp", "cr0", "cr3", "efer")
    )
    return f"the processor stands at {shown}"


def dump(registers: Registers) -> str:
    """General, control and segment registers as text."""
    names = [*REGS.fields, "cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base", "mp_state"]
    cells = [f"{name:>9} {registers.get(name):016x}" for name in names]
    lines = ["".join(cells[start : start + 4]) for start in range(0, len(cells), 4)]
    for segment in _SEGMENTS:
        values = {field: registers.get(f"{segment}.{field}") for field in SEGMENT.fields
                  if field != "padding"}  # fmt: skip
        lines.append(
            f"{segment:>9} {values['selector']:04x} base {values['base']:016x}"
            f" limit {values['limit']:08x} type {values['type']:x} dpl {values['dpl']}"
            f" s {values['s']} db {values['db']} l {values['l']} g {values['g']}"
            f" present {values['present']}"
        )
    for table in ("gdt", "idt"):
        base, limit = registers.get(f"{table}.base"), registers.get(f"{table}.limit")
        lines.append(f"{table:>9}      base {base:016x} limit {limit:08x}")
    return "\n".join(lines)
