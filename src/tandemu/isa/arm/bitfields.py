"""Bitfield moves, extraction, and what is short for them (Arm ARM, C4.1.92)."""

from __future__ import annotations

from collections.abc import Iterator

from tandemu.bits import mask
from tandemu.ir import I64, Constant, I, Value
from tandemu.ir.values import emit
from tandemu.isa.arm.formats import HOT, record
from tandemu.isa.arm.integer import SIZES, extended, immediate, result, source
from tandemu.isa.instruction import Instruction, Semantics
from tandemu.isa.tracing import OperandContext


def _field_masks(c: OperandContext, bits: int) -> tuple[Value, Value, Value]:
    """DecodeBitMasks as bitfield moves use it: the rotation, the source's mask, the result's."""
    right, last = c.field("r"), c.field("s")
    ones = Constant(I64, mask(64))
    source_mask = ones >> (63 - last)
    difference = (last - right) & (bits - 1)
    result_mask = ones >> (63 - difference)
    # (The source's mask turns along.)
    turned = source_mask.trunc(I(bits)).rotate_right(right.trunc(I(bits)))
    return right.trunc(I(bits)), turned, result_mask.trunc(I(bits))


def _bitfield(bits: int, kind: str) -> Semantics:
    def semantics(c: OperandContext) -> None:
        right, within, top = _field_masks(c, bits)
        value = source(c, "rs1", bits)
        turned = value.rotate_right(right)
        if kind == "bfm":
            old = source(c, "rd", bits)
            bottom = (old & ~within) | (turned & within)
            result(c, (old & ~top) | (bottom & top))
            return
        bottom = turned & within
        if kind == "ubfm":
            result(c, bottom & top)
            return
        sign = 0 - ((value >> c.field("s").trunc(I(bits))) & 1)
        result(c, (sign & ~top) | (bottom & top))

    return semantics


def _shift_right(bits: int, signed: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        value = source(c, "rs1", bits)
        amount = c.field("r").trunc(I(bits))
        result(c, value.sar(amount) if signed else value >> amount)

    return semantics


def _extend(width: int, signed: bool, bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        result(c, extended(c.read("rs1"), width, signed, bits))

    return semantics


def _extract(bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        low, high = source(c, "rs2", bits), source(c, "rs1", bits)
        result(c, emit("funnel_right", high, low, immediate(c, bits)))

    return semantics


def _bitfields() -> Iterator[Instruction]:
    for bits, size, sf in SIZES:
        n, r, s = (sf, "0rrrrr", "0sssss") if bits == 32 else (sf, "rrrrrr", "ssssss")
        last = "011111" if bits == 32 else "111111"
        for name, op in (("sbfm", "00"), ("bfm", "01"), ("ubfm", "10")):
            yield record(
                f"{name}.{size}", f"{sf}{op} 100110 {n} {r} {s} nnnnn ddddd",
                _bitfield(bits, name),
            )  # fmt: skip
        for name, op, signed in (("asr_imm", "00", True), ("lsr_imm", "10", False)):
            yield record(
                f"{name}.{size}", f"{sf}{op} 100110 {n} {r} {last} nnnnn ddddd",
                _shift_right(bits, signed), traits=HOT,
                specialises=f"{'s' if signed else 'u'}bfm.{size}",
            )  # fmt: skip
        for name, op, width, signed in (
            ("sxtb", "00", 8, True), ("sxth", "00", 16, True), ("sxtw", "00", 32, True),
            ("uxtb", "10", 8, False), ("uxth", "10", 16, False), ("uxtw", "10", 32, False),
        ):  # fmt: skip
            if width < bits:
                yield record(
                    f"{name}.{size}", f"{sf}{op} 100110 {n} 000000 {width - 1:06b} nnnnn ddddd",
                    _extend(width, signed, bits), specialises=f"{'s' if signed else 'u'}bfm.{size}",
                )  # fmt: skip
        amount = "0iiiii" if bits == 32 else "iiiiii"
        yield record(
            f"extr.{size}", f"{sf}00 100111 {n} 0 mmmmm {amount} nnnnn ddddd", _extract(bits)
        )


INSTRUCTIONS: tuple[Instruction, ...] = tuple(_bitfields())
