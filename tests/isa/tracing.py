"""A context that traces an instruction by itself, and a toy hart to run it on.

What a translator does with semantics, in small: the function is traced once into
a program whose effects are calls, which the evaluator answers from registers and
memory kept in Python.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tandemu.bits import mask, sign_extend
from tandemu.ir import Builder, Evaluator, Function, I, Value
from tandemu.isa.instruction import Instruction
from tandemu.isa.riscv.instruction_set import InstructionSet

ATOMIC_KINDS = ("add", "xchg", "xor", "and", "or", "min", "max", "umin", "umax")


class Tracing:
    """Implements `tandemu.isa.riscv.context.Context` by calls."""

    def __init__(self, xlen: int, name: str) -> None:
        self.xlen = xlen
        operands = ("rs1", "rs2", "imm", "pc", "next_pc")
        self.ir = Builder(name, [(operand, I(xlen)) for operand in operands])

    def __getattr__(self, name: str) -> Value:
        return getattr(self.ir, name)

    def _set_rd(self, value: Value | int) -> None:
        self.ir.call("set_rd", self.ir.lift(value, I(self.xlen)))

    rd = property(None, _set_rd)

    def load(self, address: Value, bits: int) -> Value:
        assert address.type == I(self.xlen)
        return self.ir.call(f"load{bits}", address, result=I(bits))

    def store(self, address: Value, value: Value) -> None:
        assert address.type == I(self.xlen)
        self.ir.call(f"store{value.type.bits}", address, value)

    def atomic(self, kind: str, address: Value, value: Value, bits: int) -> Value:
        assert value.type == I(bits) and kind in ATOMIC_KINDS
        return self.ir.call(f"{kind}{bits}", address, value, result=I(bits))

    def load_reserved(self, address: Value, bits: int) -> Value:
        return self.ir.call(f"reserve{bits}", address, result=I(bits))

    def store_conditional(self, address: Value, value: Value, bits: int) -> Value:
        assert value.type == I(bits)
        return self.ir.call(f"conditional{bits}", address, value, result=I(1))

    def fence(self) -> None:
        self.ir.fence()

    def branch(self, condition: Value, target: Value) -> None:
        with self.ir.If(condition):
            self.ir.call("jump", target)

    def jump(self, target: Value) -> None:
        self.ir.call("jump", target)


@cache
def traced(instruction: Instruction, xlen: int) -> Function:
    """The program of one instruction."""
    context = Tracing(xlen, instruction.name)
    assert instruction.semantics is not None
    instruction.semantics(context)
    context.ir.Return()
    return context.ir.finish()


@dataclass
class Hart:
    """Integer registers, and memory at `base`."""

    instructions: InstructionSet
    base: int = 0
    memory: bytearray = field(default_factory=bytearray)
    registers: list[int] = field(default_factory=lambda: [0] * 32)
    pc: int = 0
    reservation: int | None = None

    def step(self, word: int) -> None:
        """Run the instruction *word* at `pc`."""
        decoded = self.instructions.decode(word)
        assert decoded is not None
        xlen = self.instructions.xlen
        operands = decoded.operands
        next_pc = (self.pc + decoded.length) & mask(xlen)
        follows = [next_pc]
        results: list[int] = []
        answers: dict[str, Any] = {"set_rd": results.append, "jump": follows.append}
        for bits in (8, 16, 32, 64):
            answers |= self._accesses(bits)
        Evaluator(answers).run(
            traced(decoded.instruction, xlen),
            self.registers[operands.get("rs1", 0)],
            self.registers[operands.get("rs2", 0)],
            operands.get("imm", 0),
            self.pc,
            next_pc,
        )
        if results and operands["rd"]:
            self.registers[operands["rd"]] = results[-1]
        self.pc = follows[-1]

    def _accesses(self, bits: int) -> dict[str, Any]:
        """What answers the calls that access *bits* bits."""

        def load(address: int) -> int:
            offset = address - self.base
            return int.from_bytes(self.memory[offset : offset + bits // 8], "little")

        def store(address: int, value: int) -> None:
            offset = address - self.base
            self.memory[offset : offset + bits // 8] = value.to_bytes(bits // 8, "little")

        def reserve(address: int) -> int:
            self.reservation = address
            return load(address)

        def conditional(address: int, value: int) -> int:
            success = self.reservation == address
            self.reservation = None
            if success:
                store(address, value)
            return int(success)

        def combining(kind: str) -> Any:
            def atomic(address: int, value: int) -> int:
                old = load(address)
                store(address, combine(kind, old, value, bits))
                return old

            return atomic

        return {
            f"load{bits}": load,
            f"store{bits}": store,
            f"reserve{bits}": reserve,
            f"conditional{bits}": conditional,
            **{f"{kind}{bits}": combining(kind) for kind in ATOMIC_KINDS},
        }


def combine(kind: str, a: int, b: int, bits: int) -> int:
    """The new value of memory after an atomic operation."""
    signed = {sign_extend(a, bits): a, sign_extend(b, bits): b}
    return {
        "add": (a + b) & mask(bits),
        "xchg": b,
        "xor": a ^ b,
        "and": a & b,
        "or": a | b,
        "min": signed[min(signed)],
        "max": signed[max(signed)],
        "umin": min(a, b),
        "umax": max(a, b),
    }[kind]
