"""What Python does with a processor of the teaching architecture at rest."""

from __future__ import annotations

from typing import Any

from tandemu.bits import mask
from tandemu.isa import effects
from tandemu.isa.architecture import CallConvention, ChangeInputs, Isa, ProgramCauses
from tests.teaching import state as teaching

_WORDS = ("pc", "level", *teaching.SYSTEM_REGISTERS)
_REGISTERS = {f"r{number}": number for number in range(teaching.REGISTERS)}


class Control:
    """`isa.architecture.Control`."""

    causes = ProgramCauses(
        call=teaching.CALL,
        fetch=teaching.FETCH_FAULT,
        load=frozenset({teaching.LOAD_FAULT, teaching.LOAD_BUS}),
        store=frozenset({teaching.STORE_FAULT, teaching.STORE_BUS}),
        misaligned=frozenset({teaching.MISALIGNED}),
        breakpoint=frozenset(),
    )
    call = CallConvention(number=6, arguments=(0, 1, 2, 3, 4, 5), result=0, size=1)
    clock = "time"
    dumped = (*_WORDS, *_REGISTERS)
    state_names = (*_REGISTERS, *_WORDS)
    load_refused, store_refused = teaching.LOAD_FAULT, teaching.STORE_FAULT

    def reset(self, view: Any, number: int, *, firmware_calls: bool) -> None:
        for name in teaching.fields():
            if name == "r":
                view.r[0 : teaching.REGISTERS] = [0] * teaching.REGISTERS
            elif name == "flag":
                view.flag[0:4] = [0] * 4
            else:
                setattr(view, name, 0)
        view.level, view.masked = teaching.KERNEL, 1
        view.deadline = teaching.NEVER

    def begin_program(self, view: Any) -> None:
        self.reset(view, 0, firmware_calls=False)
        view.level = teaching.USER

    def deadline(self, view: Any) -> int:
        return int(view.deadline)

    def is_pending(self, view: Any) -> bool:
        return bool(view.inputs & view.enable)

    def context(self, view: Any) -> int:
        return int(view.level)

    def context_name(self, context: int) -> str:
        return ("user", "kernel")[context]

    def get(self, view: Any, register: str) -> int | None:
        if register in _REGISTERS:
            return int(view.r[_REGISTERS[register]])
        return int(getattr(view, register)) if register in _WORDS else None

    def set(self, view: Any, register: str, value: int, change: ChangeInputs) -> bool:
        if register in _REGISTERS:
            view.r[_REGISTERS[register]] = value & mask(64)
        elif register in _WORDS:
            setattr(view, register, value & mask(64))
            view.effects |= effects.MODE | effects.FLUSH_ALL
        else:
            return False
        return True

    def ends_wait(self, register: str) -> bool:
        return register == "deadline"


def control(isa: Isa) -> Control:
    """The control of *isa*."""
    return Control()
