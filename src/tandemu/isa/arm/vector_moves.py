"""Advanced SIMD: moving lanes about, constants, tables (Arm ARM, C4.1.96).

"Advanced SIMD copy", "permute", "extract", "table lookup" and "modified immediate".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tandemu.bits import mask
from tandemu.ir import I32, I64, I128, Constant, I, Value, vector_of
from tandemu.ir.values import emit
from tandemu.ir.vectors import splat
from tandemu.isa.arm.formats import record
from tandemu.isa.arm.immediates import VECTOR_PATTERN
from tandemu.isa.arm.vector_lanes import (
    BITS,
    VECTOR,
    ZERO,
    both,
    either,
    inverted,
    shuffle,
    write_vector,
)
from tandemu.isa.instruction import Instruction, Semantics
from tandemu.isa.tracing import OperandContext

Reserved = dict[str, tuple[int, ...]] | None
SUFFIX = ("b", "h", "s", "d")


def take_lane(vector: Value, number: Value, lane: int) -> Value:
    """Lane *number*, which may be known only when the code runs."""
    if isinstance(number, Constant):
        return vector.lane(number.value, lane)
    word = number >> (64 // lane).bit_length() - 1
    chosen = emit("select", word != 0, vector.lane(1, 64), vector.lane(0, 64))
    return (chosen >> ((number & (64 // lane - 1)) * lane)).trunc(I(lane)) if lane < 64 else chosen


def put_lane(vector: Value, number: Value, value: Value) -> Value:
    """*vector* with *value* in lane *number*."""
    lane = value.type.bits
    if isinstance(number, Constant):
        return vector.with_lane(number.value, value)
    within = (number & (64 // lane - 1)) * lane
    hole = ~(Constant(I64, mask(lane)) << within)
    new = value.zext(I64) << within
    word = number >> (64 // lane).bit_length() - 1
    words = []
    for at in range(2):
        old = vector.lane(at, 64)
        words.append(emit("select", word == at, (old & hole) | new, old))
    return vector_of(*words)


def _duplicate_lane(lane: int, scalar: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        value = take_lane(c.read("rs1"), c.field("k"), lane)
        if scalar:
            c.write("rd", vector_of(value.zext(I64), Constant(I64, 0)))
        else:
            write_vector(c, splat(value, BITS))

    return semantics


def _duplicate(lane: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        write_vector(c, splat(c.read("rs1").trunc(I(lane)), BITS))

    return semantics


def _to_general(lane: int, signed_to: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        value = take_lane(c.read("rs1"), c.field("k"), lane)
        if signed_to:
            value = value.resize(I(signed_to), signed=True)
        c.write("rd", value.zext(I64))

    return semantics


def _insert(lane: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        value = c.read("rs1").trunc(I(lane))
        c.write("rd", put_lane(c.read("rd"), c.field("k"), value))

    return semantics


def _insert_lane(lane: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        from_ = c.field("j") >> lane.bit_length() - 4
        value = take_lane(c.read("rs1"), from_, lane)
        c.write("rd", put_lane(c.read("rd"), c.field("k"), value))

    return semantics


def _copies() -> Iterator[Instruction]:
    for size, suffix in enumerate(SUFFIX):
        lane, index = 8 << size, "k" * (4 - size) + "1" + "0" * size
        whole = {"q": (0,)} if size == 3 else None
        yield record(
            f"dup_lane.{suffix}", f"0q001110000 {index} 0 0000 1 wwwww vvvvv",
            _duplicate_lane(lane, False), extension="AdvSIMD", reserved=whole,
        )  # fmt: skip
        yield record(
            f"dup_scalar.{suffix}", f"01011110000 {index} 0 0000 1 wwwww vvvvv",
            _duplicate_lane(lane, True), extension="AdvSIMD",
        )  # fmt: skip
        yield record(
            f"dup.{suffix}", f"0q001110000 {'j' * (4 - size)}1{'0' * size} 0 0001 1 nnnnn vvvvv",
            _duplicate(lane), extension="AdvSIMD", reserved=whole,
        )  # fmt: skip
        yield record(
            f"ins.{suffix}", f"01001110000 {index} 0 0011 1 nnnnn vvvvv",
            _insert(lane), extension="AdvSIMD",
        )  # fmt: skip
        yield record(
            f"ins_lane.{suffix}", f"01101110000 {index} 0 jjjj 1 wwwww vvvvv",
            _insert_lane(lane), extension="AdvSIMD",
        )  # fmt: skip
        q = "1" if size == 3 else "0"
        yield record(
            f"umov.{suffix}", f"0{q}001110000 {index} 0 0111 1 wwwww ddddd",
            _to_general(lane, 0), extension="AdvSIMD",
        )  # fmt: skip
        for bits, q in ((32, "0"), (64, "1")):
            if lane < bits:
                yield record(
                    f"smov.{suffix}{'w' if bits == 32 else 'x'}",
                    f"0{q}001110000 {index} 0 0101 1 wwwww ddddd",
                    _to_general(lane, bits), extension="AdvSIMD",
                )  # fmt: skip


def _permuted(places: Callable[[int], tuple[int, ...]], lane: int) -> Semantics:
    """*places* of a register of so many lanes."""

    def semantics(c: OperandContext) -> None:
        a, b = c.read("rs1"), c.read("rs2")
        whole = shuffle(c, lane, a, b, places(128 // lane))
        if lane == 64:
            c.write("rd", whole)
            return
        half = 64 // lane
        # Of 64 bits each, both registers are one of 128.
        joined = vector_of(a.lane(0, 64), b.lane(0, 64))
        chosen = tuple(place for place in places(half))
        low = shuffle(c, lane, joined, ZERO, (*chosen, *range(2 * half, 3 * half)))
        q = c.field("q")
        if isinstance(q, Constant):
            c.write("rd", whole if q.value else low)
            return
        words = [c.ir.select(q != 0, whole.lane(n, 64), low.lane(n, 64)) for n in (0, 1)]
        c.write("rd", vector_of(*words))

    return semantics


def _unzip(odd: int) -> Callable[[int], tuple[int, ...]]:
    return lambda count: tuple(range(odd, 2 * count, 2))


def _transpose(odd: int) -> Callable[[int], tuple[int, ...]]:
    return lambda count: tuple(place for at in range(odd, count, 2) for place in (at, count + at))


def _zip(upper: int) -> Callable[[int], tuple[int, ...]]:
    return lambda count: tuple(
        place
        for at in range(upper * count // 2, (upper + 1) * count // 2)
        for place in (at, count + at)
    )


def _permutations() -> Iterator[Instruction]:
    for name, opcode, places in (
        ("uzp1", 1, _unzip(0)), ("trn1", 2, _transpose(0)), ("zip1", 3, _zip(0)),
        ("uzp2", 5, _unzip(1)), ("trn2", 6, _transpose(1)), ("zip2", 7, _zip(1)),
    ):  # fmt: skip
        for size, suffix in enumerate(SUFFIX):
            yield record(
                f"{name}.{suffix}", f"0q001110{size:02b}0 uuuuu 0 {opcode:03b} 10 wwwww vvvvv",
                _permuted(places, 8 << size), extension="AdvSIMD",
                reserved={"q": (0,)} if size == 3 else None,
            )  # fmt: skip


def _extract(whole: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        a, b, first = c.read("rs1"), c.read("rs2"), c.field("k")
        if not whole:
            value = emit("funnel_right", b.lane(0, 64), a.lane(0, 64), first << 3)
            c.write("rd", vector_of(value, Constant(I64, 0)))
            return
        words = [one.lane(n, 64) for one in (a, b) for n in (0, 1)]
        within, far = (first & 7) << 3, first.uge(8)
        found = []
        for at in range(2):
            low = c.ir.select(far, words[at + 1], words[at])
            high = c.ir.select(far, words[(at + 2) % 4], words[at + 1])
            found.append(emit("funnel_right", high, low, within))
        c.write("rd", vector_of(*found))

    return semantics


def _table(count: int, extends: bool) -> Semantics:
    """TBL and TBX: bytes of one to four registers that follow one another, by their number."""

    def semantics(c: Any) -> None:
        indices, old = c.read("rs2"), c.read("rd") if extends else ZERO
        tables = c.read_run("rs1", count)
        words = []
        for half in range(2):
            word = old.lane(half, 64)
            for at in range(8):
                number = (indices.lane(half, 64) >> (8 * at)) & 0xFF
                byte: Value = (word >> (8 * at)) & 0xFF
                for one in range(count):
                    for part in range(2):
                        source = tables[one].lane(part, 64)
                        found = (source >> ((number & 7) << 3)) & 0xFF
                        byte = c.ir.select((number >> 3) == 2 * one + part, found, byte)
                hole = ~(0xFF << 8 * at) & mask(64)
                word = (word & hole) | (byte << (8 * at))
            words.append(word)
        write_vector(c, vector_of(*words))

    return semantics


# Modified immediates ---------------------------------------------------------------------------


def _constant(c: OperandContext) -> None:
    write_vector(c, vector_of(c.imm, c.imm))


def _with_old(function: Callable[[Value, Value], Value]) -> Semantics:
    def semantics(c: OperandContext) -> None:
        write_vector(c, function(c.read("rd"), vector_of(c.imm, c.imm)))

    return semantics


def _immediates() -> Iterator[Instruction]:
    def one(
        name: str, op: str, cmode: str, semantics: Semantics, reserved: Reserved = None
    ) -> Instruction:
        return record(
            name, f"0q{op}0111100000 iii {cmode} 01 iiiii vvvvv", semantics,
            immediate=VECTOR_PATTERN, extension="AdvSIMD", reserved=reserved,
        )  # fmt: skip

    def cleared(old: Value, pattern: Value) -> Value:
        ones = Constant(VECTOR, mask(BITS))
        return both(old, emit("vxor", pattern, ones, attributes=(64,)))

    for shift in range(4):
        yield one(f"movi.s{shift}", "0", f"0{shift:02b}0", _constant)
        yield one(f"orr_imm.s{shift}", "0", f"0{shift:02b}1", _with_old(either))
        yield one(f"mvni.s{shift}", "1", f"0{shift:02b}0", _constant)
        yield one(f"bic_imm.s{shift}", "1", f"0{shift:02b}1", _with_old(cleared))
    for shift in range(2):
        yield one(f"movi.h{shift}", "0", f"10{shift}0", _constant)
        yield one(f"orr_imm.h{shift}", "0", f"10{shift}1", _with_old(either))
        yield one(f"mvni.h{shift}", "1", f"10{shift}0", _constant)
        yield one(f"bic_imm.h{shift}", "1", f"10{shift}1", _with_old(cleared))
        yield one(f"movi.m{shift}", "0", f"110{shift}", _constant)
        yield one(f"mvni.m{shift}", "1", f"110{shift}", _constant)
    yield one("movi.b", "0", "1110", _constant)
    yield one("fmov_imm.s", "0", "1111", _constant)
    yield one("movi.d", "1", "1110", _constant)
    yield one("fmov_imm.d", "1", "1111", _constant, {"q": (0,)})


def _tables() -> Iterator[Instruction]:
    yield record(
        "ext.8b", "00101110000 uuuuu 0 0kkk 0 wwwww vvvvv", _extract(False), extension="AdvSIMD"
    )
    yield record(
        "ext.16b", "01101110000 uuuuu 0 kkkk 0 wwwww vvvvv", _extract(True), extension="AdvSIMD"
    )


INSTRUCTIONS: tuple[Instruction, ...] = (
    *_copies(),
    *_permutations(),
    *_immediates(),
    *_tables(),
)

__all__ = ["I32", "I128", "INSTRUCTIONS", "inverted", "put_lane", "take_lane"]
