"""The instructions of the teaching architecture, and how they are fetched.

The first byte is the opcode, and says how long the instruction is. Operands stand at fixed places
of the word: A bits 8 to 11, B 12 to 15, C 16 to 19, D 20 to 23.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tandemu.bits import mask
from tandemu.ir import I8, I32, I64, Builder, Constant, I, Value
from tandemu.isa import effects
from tandemu.isa.decoder import Decoded, Decoder, KeyLayout
from tandemu.isa.guest import Fetched, Place
from tandemu.isa.instruction import Field, ImmediateFormat, Instruction, Kind, Semantics, Trait
from tandemu.isa.tracing import OperandContext
from tests.teaching import state as teaching

PLACES = {
    "rd": Place(8, 4),
    "rs3": Place(8, 4),
    "rs1": Place(12, 4),
    "rs2": Place(16, 4),
    "rd2": Place(20, 4),
}
_PAGE = 4096
_LONGEST = 5


def _register(name: str) -> Field:
    return Field(name, *PLACES[name], "r")


RD, RS1, RS2, RS3, RD2 = (_register(name) for name in ("rd", "rs1", "rs2", "rs3", "rd2"))
NUMBER = Field("number", 12, 4)
IMM8 = ImmediateFormat("imm8", True, ((16, 8, 0),))
IMM16, FAR16 = (ImmediateFormat("imm16", True, ((low, 16, 0),)) for low in (8, 16))
IMM24 = ImmediateFormat("imm24", True, ((16, 24, 0),))
IMM32 = ImmediateFormat("imm32", True, ((8, 32, 0),))


# Meanings ----------------------------------------------------------------------------------


def _set_flags(c: OperandContext, result: Value, carry: Value, overflow: Value) -> None:
    c.set_register("flag", teaching.ZERO, (result == 0).zext(I64))
    c.set_register("flag", teaching.NEGATIVE, result >> 63)
    c.set_register("flag", teaching.CARRY, carry.zext(I64))
    c.set_register("flag", teaching.OVERFLOW, overflow >> 63)


def _sum(c: OperandContext, a: Value, b: Value) -> Value:
    result = a + b
    _set_flags(c, result, result.ult(a), (a ^ result) & (b ^ result))
    return result


def _difference(c: OperandContext, a: Value, b: Value) -> Value:
    result = a - b
    _set_flags(c, result, a.ult(b), (a ^ b) & (a ^ result))
    return result


def _both(combine: Callable[[OperandContext, Value, Value], Value]) -> Semantics:
    """rd = rd combined with rs1."""

    def semantics(c: OperandContext) -> None:
        c.write("rd", combine(c, c.read("rd"), c.read("rs1")))

    return semantics


def _logic(c: OperandContext, result: Value) -> Value:
    none = Constant(I64, 0)
    _set_flags(c, result, none.ult(0), none)
    return result


def _move(c: OperandContext) -> None:
    c.write("rd", c.read("rs1"))


def _compare(c: OperandContext) -> None:
    _difference(c, c.read("rs3"), c.read("rs1"))


def _add_immediate(c: OperandContext) -> None:
    c.write("rd", _sum(c, c.read("rd"), c.imm))


def _load_immediate(c: OperandContext) -> None:
    c.write("rd", c.imm)


def _multiply(c: OperandContext) -> None:
    wide = c.read("rs1").zext(I(128)) * c.read("rs2").zext(I(128))
    # The higher one first: if both are one register, it keeps the lower.
    c.write("rd2", (wide >> 64).trunc(I64))
    c.write("rd", wide.trunc(I64))


def _scaled(scale: int) -> Callable[[OperandContext], Value]:
    return lambda c: c.read("rs1") + (c.read("rs2") << scale)


def _displaced(c: OperandContext) -> Value:
    return c.read("rs1") + c.imm


def _loading(address: Callable[[OperandContext], Value], bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        c.write("rd", c.load(address(c), bits).resize(I64))

    return semantics


def _storing(address: Callable[[OperandContext], Value], bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        c.store(address(c), c.read("rs3").resize(I(bits)))

    return semantics


def _add_to_memory(c: OperandContext) -> None:
    address, more = c.read("rs1"), c.read("rs2")
    old = c.load(address, 64)
    new = old + more
    c.store(address, new)
    _set_flags(c, new, new.ult(old), (old ^ new) & (more ^ new))


def _target(c: OperandContext) -> Value:
    return c.next_pc + c.imm


def _branching(condition: Callable[[OperandContext], Value]) -> Semantics:
    def semantics(c: OperandContext) -> None:
        c.branch(condition(c), _target(c))

    return semantics


def _flag(number: int, value: int) -> Callable[[OperandContext], Value]:
    return lambda c: c.register("flag", number) == value


def _less(c: OperandContext) -> Value:
    return c.register("flag", teaching.NEGATIVE) != c.register("flag", teaching.OVERFLOW)


def _jump(c: OperandContext) -> None:
    c.jump(_target(c))


def _call(c: OperandContext) -> None:
    c.write("rd", c.next_pc)
    c.jump(_target(c))


def _jump_register(c: OperandContext) -> None:
    c.jump(c.read("rs1"))


def _nothing(c: OperandContext) -> None:
    pass


def _system_call(c: OperandContext) -> None:
    c.raise_exception(teaching.CALL, 0)


def _kernel_only(c: OperandContext) -> None:
    with c.ir.If(c.hart.level == teaching.USER, likely=False):
        c.raise_exception(teaching.ILLEGAL, c.word)


def _return(c: OperandContext) -> None:
    _kernel_only(c)
    hart = c.hart
    hart.level, hart.masked = hart.back_level, hart.back_masked
    for number in range(4):
        hart.flag[number] = (hart.back_flags >> number) & 1
    hart.effects = hart.effects | effects.MODE | effects.INTERRUPTS
    c.jump(hart.back)


def _wait(c: OperandContext) -> None:
    _kernel_only(c)
    c.hart.effects = c.hart.effects | effects.WAIT


def _get_system(c: OperandContext) -> None:
    _kernel_only(c)
    value: Value = Constant(I64, 0)
    for number, name in enumerate(teaching.SYSTEM_REGISTERS):
        value = c.ir.select(c.field("number") == number, getattr(c.hart, name), value)
    c.write("rd", value)


def _set_system(c: OperandContext) -> None:
    _kernel_only(c)
    value = c.read("rs3")
    for number, name in enumerate(teaching.SYSTEM_REGISTERS):
        with c.ir.If(c.field("number") == number):
            setattr(c.hart, name, value)
    changed = effects.MODE | effects.FLUSH_ALL | effects.INTERRUPTS | effects.TIMER
    c.hart.effects = c.hart.effects | changed


# Records -----------------------------------------------------------------------------------


def _record(
    name: str,
    opcode: int,
    length: int,
    semantics: Any,
    *fields: Field,
    immediate: ImmediateFormat | None = None,
    kind: Kind = Kind.STRAIGHT,
    access: int = 0,
    traits: frozenset[Trait] = frozenset(),
) -> Instruction:
    free = sum(field.instruction_mask for field in fields)
    free |= immediate.instruction_mask if immediate else 0
    return Instruction(
        name=name,
        extension="teaching",
        xlens=frozenset({64}),
        mask=mask(8 * length) & ~free,
        match=opcode,
        fields=fields,
        immediate=immediate,
        syntax=",".join([*(field.name for field in fields), *(("imm",) if immediate else ())]),
        kind=kind,
        access=access,
        semantics=semantics,
        traits=traits,
        bits=8 * length,
    )


_HOT = frozenset({Trait.HOT})


def _memory(name: str, opcode: int, bits: int, scale: int) -> tuple[Instruction, Instruction]:
    load, store = _loading(_scaled(scale), bits), _storing(_scaled(scale), bits)
    return (
        _scaled_record(f"ld{name}{scale}", opcode + scale, load, RD, scale, Kind.LOAD, bits),
        _scaled_record(f"st{name}{scale}", opcode + 4 + scale, store, RS3, scale, Kind.STORE, bits),
    )


def _scaled_record(
    name: str, opcode: int, semantics: Any, first: Field, scale: int, kind: Kind, bits: int
) -> Instruction:
    return _record(
        name, opcode, 3, semantics, first, RS1, RS2, kind=kind, access=bits // 8, traits=_HOT
    )


RECORDS: tuple[Instruction, ...] = (
    _record("nop", 0x01, 1, _nothing),
    _record("sys", 0x02, 1, _system_call, kind=Kind.SYSTEM),
    _record("rti", 0x03, 1, _return, kind=Kind.SYSTEM),
    _record("wait", 0x04, 1, _wait, kind=Kind.SYSTEM),
    _record("mov", 0x10, 2, _move, RD, RS1, traits=_HOT),
    _record("add", 0x11, 2, _both(_sum), RD, RS1, traits=_HOT),
    _record("sub", 0x12, 2, _both(_difference), RD, RS1, traits=_HOT),
    _record("and", 0x13, 2, _both(lambda c, a, b: _logic(c, a & b)), RD, RS1),
    _record("xor", 0x14, 2, _both(lambda c, a, b: _logic(c, a ^ b)), RD, RS1),
    _record("shl", 0x15, 2, _both(lambda c, a, b: _logic(c, a << (b & 63))), RD, RS1),
    _record("cmp", 0x16, 2, _compare, RS3, RS1, traits=_HOT),
    _record("jmpr", 0x17, 2, _jump_register, RS1, kind=Kind.INDIRECT, traits=_HOT),
    _record(
        "getr",
        0x18,
        2,
        _get_system,
        RD,
        NUMBER,
        kind=Kind.SYSTEM,
        traits=frozenset({Trait.RESUMES}),
    ),
    _record("setr", 0x19, 2, _set_system, RS3, NUMBER, kind=Kind.SYSTEM),
    _record("addi", 0x20, 3, _add_immediate, RD, immediate=IMM8),
    *(
        _record(
            name, opcode, 3, _branching(condition), immediate=IMM16, kind=Kind.BRANCH, traits=_HOT
        )
        for name, opcode, condition in (
            ("bz", 0x21, _flag(teaching.ZERO, 1)),
            ("bnz", 0x22, _flag(teaching.ZERO, 0)),
            ("bc", 0x23, _flag(teaching.CARRY, 1)),
            ("blt", 0x24, _less),
        )
    ),
    _record("jmp", 0x25, 3, _jump, immediate=IMM16, kind=Kind.JUMP),
    _record("mul", 0x26, 3, _multiply, RD, RS1, RS2, RD2),
    _record("addm", 0x27, 3, _add_to_memory, RS1, RS2, kind=Kind.STORE, access=8),
    _record(
        "ldd",
        0x28,
        4,
        _loading(_displaced, 64),
        RD,
        RS1,
        immediate=FAR16,
        kind=Kind.LOAD,
        access=8,
        traits=_HOT,
    ),
    _record(
        "std",
        0x29,
        4,
        _storing(_displaced, 64),
        RS3,
        RS1,
        immediate=FAR16,
        kind=Kind.STORE,
        access=8,
        traits=_HOT,
    ),
    _record(
        "stb",
        0x2A,
        4,
        _storing(_displaced, 8),
        RS3,
        RS1,
        immediate=FAR16,
        kind=Kind.STORE,
        access=1,
    ),
    _record(
        "li", 0x30, 5, _load_immediate, RD, immediate=IMM24, traits=frozenset({Trait.CONSTANT})
    ),
    _record("call", 0x31, 5, _call, RD, immediate=IMM24, kind=Kind.JUMP),
    _record("far", 0x32, 5, _jump, immediate=IMM32, kind=Kind.JUMP),
    *(one for scale in (0, 3) for one in _memory("x", 0x40, 64, scale)),
    *_memory("b", 0x50, 8, 0),
)
BY_NAME = {record.name: record for record in RECORDS}
LENGTHS = bytearray([1] * 256)
"""How long an instruction is, by its opcode; what is none has one byte."""
for _one in RECORDS:
    LENGTHS[_one.match & 0xFF] = _one.bits // 8


class Instructions:
    """`isa.guest.Instructions`."""

    records = RECORDS
    decoder = Decoder(RECORDS, KeyLayout(primary=((0, 8, 0),), secondary=(8, 1)))


def decode(code: bytes) -> Decoded | None:
    """The instruction that *code* begins with; None if there is none, or not all of it."""
    length = LENGTHS[code[0]] if code else 1
    if len(code) < length:
        return None
    word = int.from_bytes(code[:length], "little")
    form = Instructions.decoder.form(word)
    return Decoded(RECORDS[form - 1], word, form, length) if form else None


def encode(name: str, **operands: int) -> bytes:
    """The bytes of one instruction."""
    record = BY_NAME[name]
    return record.encode(operands).to_bytes(record.bits // 8, "little")


class ByteFetch:
    """`isa.guest.Fetch`: a table says by its first byte how long an instruction is."""

    def _length(self, b: Builder, cpu: Any, place: Value) -> Value:
        opcode = b.load(place.to_pointer(), I8).zext(I64)
        return b.load((cpu.fetch_table + opcode).to_pointer(), I8).zext(I64)

    def near_end(self, within: Value) -> Value:
        return within.ugt(_PAGE - _LONGEST)

    def crosses(self, b: Builder, cpu: Any, place: Value, within: Value) -> Value:
        return (within + self._length(b, cpu, place)).ugt(_PAGE)

    def beyond(self, pc: Value) -> Value:
        return (pc | (_PAGE - 1)) + 1

    def rest(self, b: Builder, place: Value) -> Value:
        return b.load(place.to_pointer(), I32).zext(I64)

    def fetch(self, b: Builder, cpu: Any, place: Value, pc: Value, rest: Value) -> Fetched:
        length = self._length(b, cpu, place)
        word = b.variable(I64, 0)
        left = _PAGE - (pc & (_PAGE - 1))
        with b.If(left.uge(8)):
            bits = length << 3
            word.value = b.load(place.to_pointer(), I64) & ((Constant(I64, 1) << bits) - 1)
        with b.Else():
            # Byte by byte, and from the next page what is beyond this one.
            number = b.variable(I64, 0)
            with b.While(lambda: number.value.ult(length)):
                here = number.value
                byte = b.variable(I64, 0)
                with b.If(here.ult(left)):
                    byte.value = b.load((place + here).to_pointer(), I8).zext(I64)
                with b.Else():
                    byte.value = (rest >> ((here - left) << 3)) & 0xFF
                word.value = word.value | (byte.value << (here << 3))
                number.value = here + 1
        return Fetched(word.value, word.value, length)
