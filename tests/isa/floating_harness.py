"""Runs the semantics of single floating-point instructions, evaluated and compiled."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from tandemu.bits import U64, Layout
from tandemu.ir import F64, I64, PTR, Builder, Constant, Function, I, Value, evaluate, lower
from tandemu.ir.softfloat import environment
from tandemu.ir.values import emit_effect
from tandemu.isa.riscv.floating import DYNAMIC, SEMANTICS, PatternNumbers
from tandemu.native import load
from tandemu.native.compiler import CodeModel, compile_object
from tandemu.native.linker import link

STATE = Layout(
    "State",
    **dict.fromkeys(("fs1", "fs2", "fs3", "rs1", "frm", "rm"), U64),
    **dict.fromkeys(("fd", "rd", "fflags", "left", "up", "down"), U64),
)
ILLEGAL, SOFTWARE = 2, 99
ONE, THREE_QUARTERS = 0x3FF0000000000000, 0x3CA8000000000000  # the latter of 1's last digit


@dataclass(frozen=True)
class Outcome:
    """What an instruction left: registers it did not write are 0; *left* is why it did not end."""

    fd: int = 0
    rd: int = 0
    fflags: int = 0
    left: int = 0

    def __repr__(self) -> str:
        return f"fd={self.fd:#x} rd={self.rd:#x} fflags={self.fflags:#x} left={self.left}"


class Tracing(PatternNumbers):
    """A context whose registers are fields of `STATE`; *interprets* as the interpreter's own."""

    def __init__(
        self, b: Builder, rm: Value | None, native: bool, xlen: int, interprets: bool
    ) -> None:
        self.ir, self.native, self.xlen, self.interprets = b, native, xlen, interprets
        self.hart = b.struct(STATE, b.state)
        self._rm = rm
        self.ended = False

    fs1 = property(lambda self: self.hart.fs1)
    fs2 = property(lambda self: self.hart.fs2)
    fs3 = property(lambda self: self.hart.fs3)
    rm = property(lambda self: self.hart.rm if self._rm is None else self._rm)
    rs1 = property(lambda self: self.hart.rs1.resize(I(self.xlen)))
    imm = property(lambda self: Constant(I(self.xlen), 8))

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "fd":
            self.hart.fd = value
        elif name == "rd":
            assert value.type == I(self.xlen)
            self.hart.rd = value.zext(I64)
        else:
            super().__setattr__(name, value)

    def load(self, address: Value, bits: int) -> Value:
        return self.ir.load(address.zext(I64).to_pointer(), I(bits))

    def store(self, address: Value, value: Value) -> None:
        self.ir.store(address.zext(I64).to_pointer(), value)

    def raise_exception(self, cause: int, tval: Value | int) -> None:
        self._leave(cause)

    def software(self) -> None:
        self._leave(SOFTWARE)

    def _leave(self, why: int) -> None:
        self.hart.left = why
        # In the outermost block nothing may follow.
        self.ended = self.ir._block is self.ir._body
        self.ir.Return()


def trace(
    mnemonic: str, rm: int | None, native: bool, xlen: int = 64, interprets: bool = False
) -> Function:
    """The instruction as a function of a state; *rm* None is one read when it runs."""
    name = f"{mnemonic}.{rm}".replace(".", "_")
    b = Builder(name, [("state", PTR)], attributes="strictfp", exported=False)
    context = Tracing(b, None if rm is None else Constant(I(3), rm), native, xlen, interprets)
    SEMANTICS[mnemonic](context)
    if not context.ended:
        b.Return()
    return b.finish()


def _around(inner: Function) -> Function:
    """Run *inner* in an environment with the state's rounding mode; collect its flags."""
    b = Builder("run_" + inner.name, [("state", PTR)], attributes="strictfp")
    state = b.struct(STATE, b.state)
    saved = emit_effect("float_save", builder=b)
    assert saved is not None
    emit_effect("float_set_rounding", state.frm, builder=b)
    emit_effect("float_clear_flags", builder=b)
    b.call(inner, b.state)
    flags = emit_effect("float_flags", builder=b)
    assert flags is not None
    state.fflags = state.fflags | flags
    # Which way 1 and -1 with a bit more are rounded tells the mode.
    for name, sign in (("up", 0), ("down", 1 << 63)):
        operands = [Constant(I64, v | sign).bitcast(F64) for v in (ONE, THREE_QUARTERS)]
        rounded = emit_effect("fadd", *operands, builder=b)
        assert rounded is not None
        setattr(state, name, rounded.bitcast(I64) & 1)
    emit_effect("float_restore", saved, builder=b)
    b.Return()
    return b.finish()


Run = Callable[..., Outcome]


def _runner(start: Callable[[int], object]) -> Run:
    def run(fs1: int = 0, fs2: int = 0, fs3: int = 0, **fields: int) -> Outcome:
        """*fields*: rs1, frm, rm."""
        values = {"rm": DYNAMIC, **fields, "fs1": fs1, "fs2": fs2, "fs3": fs3}
        buffer = bytearray(STATE.size)
        state = STATE.over(buffer)
        for name, value in values.items():
            setattr(state, name, value)
        start(ctypes.addressof(state))
        frm = state.frm
        if frm < 4:
            force = {(1, 1): 0, (0, 0): 1, (0, 1): 2, (1, 0): 3}[state.up, state.down]
            assert force == frm, f"rounds by {force} afterwards, and frm is {frm}"
        return Outcome(state.fd, state.rd, state.fflags, state.left)

    return run


@cache
def evaluated(mnemonic: str, rm: int | None = None, xlen: int = 64) -> Run:
    """The instruction in plain Python."""
    function = _around(trace(mnemonic, rm, native=False, xlen=xlen))

    def start(address: int) -> None:
        evaluate(function, address)
        assert (environment.flags, environment.rounding) == (0, 0)

    return _runner(start)


def compiled(
    forms: Iterable[tuple[str, int | None]], xlen: int = 64, *, interprets: bool = False
) -> dict[Any, Run]:
    """Instructions in machine code, by (mnemonic, rm)."""
    functions = {form: _around(trace(*form, True, xlen, interprets)) for form in forms}
    image = load(link(compile_object(lower(functions.values()), model=CodeModel.RUNTIME)))

    def starter(name: str) -> Callable[[int], object]:
        start = image.function(name, None, [ctypes.c_uint64])
        # The code lives as long as the image.
        return lambda address: (start(address), image)

    return {form: _runner(starter(function.name)) for form, function in functions.items()}
