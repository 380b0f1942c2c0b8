"""What Python does with an AArch64 processor at rest (`isa.architecture.Control`)."""

from __future__ import annotations

from typing import Any

from tandemu.bits import mask
from tandemu.isa.architecture import CallConvention, ChangeInputs, Isa, ProgramCauses
from tandemu.isa.arm import state as arm

_NEVER = mask(64)
_INTEGERS = {**{f"x{number}": number for number in range(31)}, "sp": arm.STACK, "lr": arm.LINK}
_VECTORS = {f"v{number}": number for number in range(32)}
_PLAIN = frozenset({"fpsr", "tpidr_el0", "tpidrro_el0"})


class ArmControl:
    """`isa.architecture.Control`."""

    causes = ProgramCauses(
        call=arm.SYSTEM_CALL,
        fetch=arm.FETCH_ABORT,
        load=frozenset({arm.LOAD_ABORT}),
        store=frozenset({arm.STORE_ABORT}),
        misaligned=frozenset({arm.LOAD_MISALIGNED, arm.STORE_MISALIGNED, arm.FETCH_MISALIGNED}),
        breakpoint=frozenset({arm.BREAK}),
    )
    # Linux: arch/arm64, "svc #0" with the number in w8.
    call = CallConvention(number=8, arguments=(0, 1, 2, 3, 4, 5), result=0, size=4)
    clock = "cntvct_el0"
    dumped = ("pc", "sp", *(f"x{number}" for number in range(31)), "nzcv", "fpcr", "fpsr")
    state_names = (
        *("pc", "sp", *(f"x{number}" for number in range(31)), *_VECTORS),
        *("nzcv", "fpcr", "fpsr", "tpidr_el0", "tpidrro_el0"),
    )
    load_refused, store_refused = arm.LOAD_ABORT, arm.STORE_ABORT

    def reset(self, view: Any, number: int, *, firmware_calls: bool) -> None:
        arm.reset(view)

    def begin_program(self, view: Any) -> None:
        arm.reset(view)

    def deadline(self, view: Any) -> int:
        return _NEVER

    def is_pending(self, view: Any) -> bool:
        return False

    def context(self, view: Any) -> int:
        return 0

    def context_name(self, context: int) -> str:
        return "EL0"

    def get(self, view: Any, register: str) -> int | None:
        number = _INTEGERS.get(register)
        if number is not None:
            return int(view.x[number])
        number = _VECTORS.get(register)
        if number is not None:
            return int(view.v[2 * number] | view.v[2 * number + 1] << 64)
        if register == "nzcv":
            return arm.condition_flags(view)
        return int(getattr(view, register)) if register in {*_PLAIN, "pc", "fpcr"} else None

    def set(self, view: Any, register: str, value: int, change: ChangeInputs) -> bool:
        if register in _INTEGERS:
            view.x[_INTEGERS[register]] = value & mask(64)
        elif register in _VECTORS:
            number = _VECTORS[register]
            view.v[2 * number] = value & mask(64)
            view.v[2 * number + 1] = value >> 64 & mask(64)
        elif register == "nzcv":
            arm.set_condition_flags(view, value)
        elif register == "pc":
            view.pc = value & mask(64)
        elif register in _PLAIN:
            setattr(view, register, value & mask(64))
        elif register == "fpcr":
            set_float_control(view, value)
        else:
            return False
        return True

    def ends_wait(self, register: str) -> bool:
        return False


def set_float_control(view: Any, value: int) -> None:
    """Write FPCR: floating point in other modes than the host's goes to the interpreter."""
    view.fpcr = value & arm.FPCR_MASK
    slow = arm.FPCR_FZ | arm.FPCR_DN | arm.FPCR_FZ16
    view.float_slow = int(bool(value & slow))


def control(isa: Isa) -> ArmControl:
    """The control of *isa*."""
    return ArmControl()
