"""What Python does with a RISC-V hart at rest (`isa.architecture.Control`)."""

from __future__ import annotations

from typing import Any

from tandemu.bits import mask
from tandemu.isa import effects
from tandemu.isa.architecture import CallConvention, ChangeInputs, Isa, ProgramCauses
from tandemu.isa.riscv import state as riscv
from tandemu.isa.riscv.registers import INTEGER_NAMES

_TIMERS = frozenset({"mtimecmp", "stimecmp"})
_PLAIN = _TIMERS | {"pc", "privilege"}
_PLAIN_CSRS = frozenset({"mstatus", "satp", "mie", "scounteren"})
"""Writing what they hold changes nothing: starting a hart need not load the slow way."""
_SHOWN = frozenset(
    {
        *("satp", "stvec", "sepc", "scause", "stval", "sscratch", "scounteren"),
        *("mtvec", "mepc", "mcause", "mtval", "mscratch", "medeleg", "mideleg", "mie"),
    }
)
"""CSRs that read as their field is."""
_INTEGERS = {
    **{name: number for number, name in enumerate(INTEGER_NAMES)},
    **{f"x{number}": number for number in range(32)},
    "fp": 8,
}
_PARTS = frozenset(riscv.PARTS)
_INPUTS = frozenset((riscv.SOFTWARE_INTERRUPTS, riscv.INTERRUPT_WIRES))
_MESSAGES = frozenset(riscv.MESSAGES)
_CONTEXTS = {
    riscv.SUPERVISOR: riscv.SUPERVISOR_CODE,
    riscv.USER: riscv.USER_CODE,
    riscv.MACHINE: riscv.MACHINE_CODE,
}
_NAMES = {riscv.MACHINE: "machine", riscv.SUPERVISOR: "supervisor", riscv.USER: "user"}


class HartControl:
    """`isa.architecture.Control` for harts of one XLEN."""

    causes = ProgramCauses(
        call=riscv.USER_CALL,
        fetch=riscv.INSTRUCTION_PAGE_FAULT,
        load=frozenset({riscv.LOAD_PAGE_FAULT, riscv.LOAD_ACCESS_FAULT}),
        store=frozenset({riscv.STORE_PAGE_FAULT}),
        misaligned=frozenset({riscv.STORE_MISALIGNED, riscv.LOAD_MISALIGNED}),
        breakpoint=frozenset({riscv.BREAKPOINT}),
    )
    clock = "time"
    dumped = riscv.DUMPED
    load_refused, store_refused = riscv.LOAD_PAGE_FAULT, riscv.STORE_PAGE_FAULT
    # The calling convention of system calls (Linux, RISC-V).
    call = CallConvention(number=17, arguments=(10, 11, 12, 13, 14, 15), result=10, size=4)

    def __init__(self, xlen: int) -> None:
        self._xlen = xlen
        self.state_names = riscv.state_names(xlen)

    def reset(self, view: Any, number: int, *, firmware_calls: bool) -> None:
        riscv.reset(view, self._xlen, number, firmware_calls=firmware_calls)

    def begin_program(self, view: Any) -> None:
        riscv.reset(view, self._xlen, 0)
        view.privilege = riscv.USER
        view.mstatus |= riscv.FS
        view.float_slow = 0
        view.mcounteren = view.scounteren = mask(32)
        view.menvcfg = view.senvcfg = riscv.CBIE | riscv.CBCFE | riscv.CBZE
        view.pmp_open = 1

    def deadline(self, view: Any) -> int:
        deadline: int = view.mtimecmp
        if view.menvcfg & riscv.STCE:
            deadline = min(deadline, view.stimecmp)
        return deadline

    def is_pending(self, view: Any) -> bool:
        return bool((view.mip | view.mip_seip) & view.mie)

    def context(self, view: Any) -> int:
        return _CONTEXTS[view.privilege]

    def context_name(self, context: int) -> str:
        return next(_NAMES[level] for level, number in _CONTEXTS.items() if number == context)

    def get(self, view: Any, register: str) -> int | None:
        number = _INTEGERS.get(register)
        if number is not None:
            return int(view.x[number])
        if register in _PLAIN or register in _SHOWN:
            return int(getattr(view, register))
        return _get_part(view, register) if register in _PARTS else None

    def set(self, view: Any, register: str, value: int, change: ChangeInputs) -> bool:
        number = _INTEGERS.get(register)
        if number:
            view.x[number] = value & mask(self._xlen)
        elif register in _TIMERS:
            setattr(view, register, value & mask(64))
        elif register == "pc":
            view.pc = value & mask(self._xlen) & ~1
        elif register == "privilege" and value in _NAMES:
            view.privilege = value
            view.effects |= effects.MODE
        elif register in _PARTS:
            _set_part(view, register, value, change)
        else:
            return register in _PLAIN_CSRS and getattr(view, register) == value
        return True

    def ends_wait(self, register: str) -> bool:
        return register in _TIMERS or register in _INPUTS


def _get_part(view: Any, name: str) -> int:
    if name == riscv.SOFTWARE_INTERRUPTS:
        return int(view.mip & riscv.SOFTWARE_BITS | view.mip_seip)
    if name == riscv.INTERRUPT_WIRES:
        return int(view.mip & riscv.WIRES)
    if name == riscv.WAITING:
        return int(bool(view.effects & effects.WAIT))
    if name in _MESSAGES:
        field, number = _message_field(name)
        value = getattr(view, field)
        return int(value if number is None else value[number])
    return int(getattr(view, name.replace(".", "_")))


def _set_part(view: Any, name: str, value: int, change: ChangeInputs) -> None:
    if name in _INPUTS:
        bits = riscv.WIRES if name == riscv.INTERRUPT_WIRES else riscv.SOFTWARE_BITS
        change(bits & ~value & mask(64), False)
        change(bits & value, True)
        if name == riscv.SOFTWARE_INTERRUPTS:
            view.mip_seip = value & riscv.SEIP
        view.effects |= effects.INTERRUPTS
    elif name == riscv.WAITING:
        view.effects = view.effects | effects.WAIT if value else view.effects & ~effects.WAIT
    elif name in _MESSAGES:
        field, number = _message_field(name)
        if number is None:
            setattr(view, field, value & mask(64))
        else:
            getattr(view, field)[number] = value & mask(64)
        view.effects |= effects.INTERRUPTS
    else:
        setattr(view, name.replace(".", "_"), value & mask(64))


def _message_field(name: str) -> tuple[str, int | None]:
    """The field of the hart, and the word of it, that state of the interrupt file is in."""
    part = name.partition(".")[2]
    if part[-1].isdigit():
        return f"messages_{part[:-1]}", int(part[-1])
    special = {"present": "message_file", "select": "siselect"}
    return special.get(part, f"messages_{part}"), None


def control(isa: Isa) -> HartControl:
    """The control of harts of *isa*."""
    return HartControl(isa.state.address_bits)
