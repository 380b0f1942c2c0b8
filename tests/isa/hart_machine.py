"""A bare hart for tests: the privileged functions, run by the evaluator or natively.

Every test of the privileged architecture asks both; what one of them answers is
what the other must answer.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from tandemu.bits import U64, Layout, mask
from tandemu.ir import I64, PTR, Builder, Evaluator, Function, I, Value, lower
from tandemu.isa.riscv import state
from tandemu.isa.riscv.hart import Environment
from tandemu.isa.riscv.hart_access import HartRegisters
from tandemu.isa.riscv.privileged import build_privileged, privileged_semantics
from tandemu.native import load
from tandemu.native.compiler import CodeModel, compile_object
from tandemu.native.linker import link

RAM_BASE = 0x8000_0000
RAM_SIZE = 1 << 20
OPERANDS = ("rs1", "rs2", "rs1_index", "rs2_index", "csr", "zimm", "word", "firmware")
RAISED, CALLED = 1, 2


def layout(xlen: int) -> Layout:
    return Layout(
        "TestHart",
        **state.hart_fields(xlen),
        ram=U64,
        clock=U64,
        retired=U64,
        jumped=U64,
        stores=U64[8],
        result=U64,
        raised_cause=U64,
        raised_tval=U64,
    )


class Context:
    """What a translator hands to semantics, made of a function's parameters."""

    def __init__(self, b: Builder, state: Any, xlen: int) -> None:
        self.ir, self.hart, self.xlen = b, state, xlen
        self.firmware: Value = b.firmware
        for name in ("rs1", "rs2", "csr", "zimm", "word", "rs1_index", "rs2_index"):
            wide = name in ("rs1_index", "rs2_index", "csr")
            setattr(self, name, getattr(b, name).resize(I64 if wide else I(xlen)))
        self.pc = state.pc.resize(I(xlen))

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "rd":
            self.hart.result = value.resize(I64)
        else:
            object.__setattr__(self, name, value)

    def store(self, address: Value, value: Value) -> None:
        for index in range(value.type.size // 4):
            place = self.hart.stores.pointer((address.resize(I64) & 63) >> 3)
            piece = (value >> (32 * index)).resize(I(32))
            self.ir.store(place.offset((address.resize(I64) & 4) + 4 * index), piece)

    def store_zeros(self, address: Value, size: int) -> None:
        zero = self.ir.constant(I(self.xlen), 0)
        for offset in range(0, size, self.xlen // 8):
            self.store(address + offset, zero)

    def jump(self, target: Value) -> None:
        self.hart.pc = target.resize(I64)
        self.hart.jumped = 1

    def raise_exception(self, cause: Value, tval: Value) -> None:
        self.hart.raised_cause, self.hart.raised_tval = cause, tval
        self.ir.Return(RAISED)

    def firmware_call(self) -> None:
        self.ir.Return(CALLED)


class Machine:
    """One kind of hart with all its functions; `fresh` gives it a hart to work on."""

    def __init__(self, xlen: int, native: bool, floating: bool) -> None:
        self.xlen, self.native = xlen, native
        self.layout = layout(xlen)
        self.environment = Environment(
            self.layout,
            xlen,
            time=lambda b, state: state.clock,
            cycles=lambda b, state: state.retired,
            instructions=lambda b, state: state.retired,
            floating=floating,
        )
        self.registers = HartRegisters(self.environment)
        ram_pointer = self._ram_pointer()
        built = build_privileged(self.environment, ram_pointer)
        self.functions: dict[str, Function] = {"ram_pointer": ram_pointer, **vars(built)}
        for name, semantics in privileged_semantics(built).items():
            symbol = "test_" + name.replace(".", "_")
            parameters = [("cpu", PTR), *((operand, I64) for operand in OPERANDS)]
            b = Builder(symbol, parameters, result=I64)
            semantics(Context(b, b.struct(self.layout, b.cpu), xlen))
            # An exception may have ended the function already.
            if name not in ("ecall", "ebreak"):
                b.Return(0)
            self.functions[name] = b.finish()
        if native:
            text = lower(self.functions.values())
            self.image = load(link(compile_object(text, model=CodeModel.RUNTIME, level=1)))
        self.memory = ctypes.create_string_buffer(RAM_SIZE)
        self.fresh()

    def _ram_pointer(self) -> Function:
        b, state = self.environment.begin("ram_pointer", "physical", "size", result=PTR)
        offset = b.physical - RAM_BASE
        inside = offset.ule(b.constant(I64, RAM_SIZE) - b.size)
        found = state.ram + offset
        b.Return(b.select(inside, found, b.constant(I64, 0)).to_pointer())
        return b.finish()

    def fresh(self, **options: Any) -> Machine:
        """Reset hart and memory."""
        self.hart: Any = self.layout.over(bytearray(self.layout.size))
        state.reset(self.hart, self.xlen, 3, **options)
        ctypes.memset(self.memory, 0, RAM_SIZE)
        self.hart.ram = ctypes.addressof(self.memory)
        return self

    def call(self, name: str, *operands: int) -> int:
        """Run one of the functions; its result, signed."""
        function = self.functions[name]
        address = ctypes.addressof(self.hart)
        result: int | None
        if self.native:
            types = [ctypes.c_uint64] * (1 + len(operands))
            restype = None if function.result is None else ctypes.c_int64
            code = self.image.function(function.name, restype, types)
            result = code(address, *(operand & mask(64) for operand in operands))
        else:
            result = Evaluator().run(function, address, *operands)
        answer = 0 if result is None else int(result)
        return answer - (1 << 64) if answer >> 63 and answer > 0 else answer

    def execute(self, name: str, **operands: int) -> int:
        """Run instruction *name*: 0, `RAISED` or `CALLED`."""
        return self.call(name, *(operands.get(operand, 0) for operand in OPERANDS))

    def csr(self, name: str | int, value: int = 0, operation: int = 0) -> int | None:
        """Access a CSR as the guest does; its old value, or None if that is illegal."""
        number = name if isinstance(name, int) else self.registers._csrs[name]
        if self.call("csr_access", number, value & mask(self.xlen), operation):
            return None
        old: int = self.hart.csr_value
        return old

    def write(self, name: str | int, value: int) -> int | None:
        """Write a CSR as the guest does; what it holds then, or None if that is illegal."""
        if self.csr(name, value, 1) is None:
            return None
        self.hart.retired += 1
        return self.csr(name)

    def taken_effects(self) -> int:
        effects: int = self.hart.effects
        self.hart.effects = 0
        return effects

    # Page tables and memory ---------------------------------------------------------------

    def poke(self, physical: int, value: int) -> None:
        """Write a page-table entry."""
        size = self.xlen // 8
        ctypes.memmove(
            ctypes.addressof(self.memory) + physical - RAM_BASE,
            value.to_bytes(size, "little"),
            size,
        )

    def peek(self, physical: int) -> int:
        size = self.xlen // 8
        start = physical - RAM_BASE
        return int.from_bytes(self.memory.raw[start : start + size], "little")


@cache
def machine(xlen: int, native: bool, floating: bool = True) -> Machine:
    """Return the machine of that kind; call `fresh` before use."""
    return Machine(xlen, native, floating)
