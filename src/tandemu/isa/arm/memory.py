"""Loads and stores (Arm ARM, C4.1.93), but for exclusive and atomic ones and structures.

A base register that is written back is so after the access. Two registers of a pair are one
access to memory, so that it needs one look into a TLB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tandemu.ir import I32, I64, Constant, I, Value, vector_of
from tandemu.isa.arm.formats import HOT, NO_TRAITS, record
from tandemu.isa.arm.immediates import BRANCH_19
from tandemu.isa.instruction import Instruction, Kind
from tandemu.isa.tracing import OperandContext

Access = Callable[[OperandContext, Value], None]
"""Makes the access at an address."""


# What is accessed ----------------------------------------------------------------------------


def loading(bits: int, signed_to: int = 0) -> Access:
    """Load *bits* bits into a general register, sign-extended to *signed_to* if that is given."""

    def access(c: OperandContext, address: Value) -> None:
        value = c.load(address, bits)
        if signed_to:
            value = value.resize(I(signed_to), signed=True)
        c.write("rd", value.zext(I64))

    return access


def storing(bits: int) -> Access:
    def access(c: OperandContext, address: Value) -> None:
        c.store(address, c.read("rs3").trunc(I(bits)))

    return access


def load_float(c: OperandContext, address: Value, bits: int) -> Value:
    """A vector register whose low *bits* bits come from memory; the rest is zero."""
    if bits == 128:
        return c.load_vector(address, 128)
    return vector_of(c.load(address, bits).zext(I64), Constant(I64, 0))


def store_float(c: OperandContext, address: Value, value: Value, bits: int) -> None:
    c.store(address, value if bits == 128 else value.lane(0, bits))


def _loading_float(bits: int) -> Access:
    def access(c: OperandContext, address: Value) -> None:
        c.write("rd", load_float(c, address, bits))

    return access


def _storing_float(bits: int) -> Access:
    def access(c: OperandContext, address: Value) -> None:
        store_float(c, address, c.read("rs3"), bits)

    return access


def _loading_pair(bits: int, signed: bool) -> Access:
    def access(c: OperandContext, address: Value) -> None:
        if bits == 64:
            both = c.load_vector(address, 128)
            first, second = both.lane(0, 64), both.lane(1, 64)
        else:
            word = c.load(address, 64)
            first, second = (
                one.trunc(I32).resize(I64, signed=signed) for one in (word, word >> 32)
            )
        c.write("rd", first)
        c.write("rd2", second)

    return access


def _storing_pair(bits: int) -> Access:
    def access(c: OperandContext, address: Value) -> None:
        first, second = c.read("rs3"), c.read("rd2")
        if bits == 64:
            c.store(address, vector_of(first, second))
        else:
            low = first.trunc(I32).zext(I64)
            c.store(address, low | (second << 32))

    return access


def _loading_float_pair(bits: int) -> Access:
    def access(c: OperandContext, address: Value) -> None:
        zero = Constant(I64, 0)
        if bits == 128:
            both = c.load_vector(address, 256)
            words = [both.lane(number, 64) for number in range(4)]
            first, second = vector_of(*words[:2]), vector_of(*words[2:])
        elif bits == 64:
            both = c.load_vector(address, 128)
            first, second = (vector_of(both.lane(number, 64), zero) for number in range(2))
        else:
            word = c.load(address, 64)
            first, second = (
                vector_of(one.trunc(I32).zext(I64), zero) for one in (word, word >> 32)
            )
        c.write("rd", first)
        c.write("rd2", second)

    return access


def _storing_float_pair(bits: int) -> Access:
    def access(c: OperandContext, address: Value) -> None:
        first, second = c.read("rs3"), c.read("rd2")
        if bits == 128:
            words = [one.lane(number, 64) for one in (first, second) for number in range(2)]
            c.store(address, vector_of(*words))
        elif bits == 64:
            c.store(address, vector_of(first.lane(0, 64), second.lane(0, 64)))
        else:
            low, high = first.lane(0, 32).zext(I64), second.lane(0, 32).zext(I64)
            c.store(address, low | (high << 32))

    return access


# Where ---------------------------------------------------------------------------------------


def _at_offset(access: Access) -> Callable[[OperandContext], None]:
    def semantics(c: OperandContext) -> None:
        access(c, c.read("rs1") + c.imm)

    return semantics


def _before(access: Access) -> Callable[[OperandContext], None]:
    def semantics(c: OperandContext) -> None:
        address = c.read("rs1") + c.imm
        access(c, address)
        c.write("rs1", address)

    return semantics


def _after(access: Access) -> Callable[[OperandContext], None]:
    def semantics(c: OperandContext) -> None:
        address = c.read("rs1")
        access(c, address)
        c.write("rs1", address + c.imm)

    return semantics


def _indexed(access: Access, option: int, shift: int) -> Callable[[OperandContext], None]:
    def semantics(c: OperandContext) -> None:
        index = c.read("rs2")
        if option in (2, 6):
            index = index.trunc(I32).resize(I64, signed=option == 6)
        access(c, c.read("rs1") + (index << shift))

    return semantics


def _literal(access: Access) -> Callable[[OperandContext], None]:
    def semantics(c: OperandContext) -> None:
        access(c, c.next_pc + (c.imm - 4))

    return semantics


def _nothing(c: OperandContext) -> None:
    """A prefetch is a hint."""


# Records -------------------------------------------------------------------------------------


def _single() -> Iterator[tuple[str, str, int, str, int, Access, bool]]:
    """Name, size, log2 of the bytes, opc, V, access, is a store."""
    for log, letter in enumerate("bhwx"):
        bits = 8 << log
        yield f"str.{letter}", f"{log:02b}", log, "00", 0, storing(bits), True
        yield f"ldr.{letter}", f"{log:02b}", log, "01", 0, loading(bits), False
        if log < 3:
            yield f"ldrs.{letter}x", f"{log:02b}", log, "10", 0, loading(bits, 64), False
        if log < 2:
            yield f"ldrs.{letter}w", f"{log:02b}", log, "11", 0, loading(bits, 32), False
    for log, letter in enumerate("bhsdq"):
        bits, opc = 8 << log, "1" if log == 4 else "0"
        size = f"{log & 3:02b}"
        yield f"strf.{letter}", size, log, opc + "0", 1, _storing_float(bits), True
        yield f"ldrf.{letter}", size, log, opc + "1", 1, _loading_float(bits), False


_OPTIONS = ((2, "uxtw"), (3, "lsl"), (6, "sxtw"), (7, "sxtx"))


_FREQUENT = frozenset(f"{name}.{size}" for name in ("ldr", "str") for size in "bwx")


def _records() -> Iterator[Instruction]:
    for name, size, log, opc, vector, access, stores in _single():
        t = ("x" if vector else "t") if stores else ("v" if vector else "d")
        kind, bytes_ = Kind.STORE if stores else Kind.LOAD, 1 << log
        target = t * 5
        frequent = HOT if name in _FREQUENT else NO_TRAITS
        yield record(
            f"{name}_imm", f"{size}111{vector}01{opc} iiiiiiiiiiii NNNNN {target}",
            _at_offset(access), scale=log, kind=kind, access=bytes_, traits=frequent,
        )  # fmt: skip
        for form, mode, where in (
            ("off", "00", _at_offset), ("post", "01", _after), ("pre", "11", _before),
        ):  # fmt: skip
            yield record(
                f"{name}_{form}", f"{size}111{vector}00{opc} 0 iiiiiiiii {mode} NNNNN {target}",
                where(access), signed=True, kind=kind, access=bytes_,
            )  # fmt: skip
        if not vector:
            yield record(
                f"{name}_user", f"{size}111000{opc} 0 iiiiiiiii 10 NNNNN {target}",
                _at_offset(access), signed=True, kind=kind, access=bytes_,
            )  # fmt: skip
        for option, extend in _OPTIONS:
            for scaled in (0, 1):
                yield record(
                    f"{name}_{extend}{'_scaled' if scaled else ''}",
                    f"{size}111{vector}00{opc} 1 mmmmm {option:03b} {scaled} 10 NNNNN {target}",
                    _indexed(access, option, log if scaled else 0), kind=kind, access=bytes_,
                )  # fmt: skip
    for name, opc, vector, access, bytes_ in (
        ("ldr.w_literal", "00", 0, loading(32), 4), ("ldr.x_literal", "01", 0, loading(64), 8),
        ("ldrs.wx_literal", "10", 0, loading(32, 64), 4),
        ("ldrf.s_literal", "00", 1, _loading_float(32), 4),
        ("ldrf.d_literal", "01", 1, _loading_float(64), 8),
        ("ldrf.q_literal", "10", 1, _loading_float(128), 16),
    ):  # fmt: skip
        yield record(
            name, f"{opc}011{vector}00 iiiiiiiiiiiiiiiiiii {('v' if vector else 'd') * 5}",
            _literal(access), immediate=BRANCH_19, kind=Kind.LOAD, access=bytes_,
        )  # fmt: skip
    yield record("prfm_literal", "11011000 kkkkkkkkkkkkkkkkkkk qqqqq", _nothing)
    yield record("prfm_imm", "1111100110 kkkkkkkkkkkk nnnnn qqqqq", _nothing)
    yield record("prfum", "11111000100 kkkkkkkkk 00 nnnnn qqqqq", _nothing)
    for option, extend in _OPTIONS:
        yield record(f"prfm_{extend}", f"11111000101 mmmmm {option:03b} k 10 nnnnn qqqqq", _nothing)


def _pairs() -> Iterator[Instruction]:
    kinds: list[tuple[str, str, int, int, Access, bool, bool]] = []
    for name, opc, bits in (("w", "00", 32), ("x", "10", 64)):
        kinds.append((f"stp.{name}", opc, 0, bits // 8, _storing_pair(bits), True, True))
        kinds.append((f"ldp.{name}", opc, 0, bits // 8, _loading_pair(bits, False), False, True))
    kinds.append(("ldpsw", "01", 0, 4, _loading_pair(32, True), False, False))
    for name, opc, bits in (("s", "00", 32), ("d", "01", 64), ("q", "10", 128)):
        kinds.append((f"stpf.{name}", opc, 1, bits // 8, _storing_float_pair(bits), True, True))
        kinds.append((f"ldpf.{name}", opc, 1, bits // 8, _loading_float_pair(bits), False, True))
    for name, opc, vector, size, access, stores, temporal in kinds:
        first = ("x" if vector else "t") if stores else ("v" if vector else "d")
        second = "z" if vector else "a"
        load, low, high = 0 if stores else 1, first * 5, second * 5
        for form, mode, where in (
            ("nontemporal", "000", _at_offset), ("post", "001", _after),
            ("off", "010", _at_offset), ("pre", "011", _before),
        ):  # fmt: skip
            if form == "nontemporal" and not temporal:
                continue
            yield record(
                f"{name}_{form}",
                f"{opc}101{vector}{mode}{load} iiiiiii {high} NNNNN {low}",
                where(access), signed=True, scale=size.bit_length() - 1,
                kind=Kind.STORE if stores else Kind.LOAD, access=2 * size,
            )  # fmt: skip


INSTRUCTIONS: tuple[Instruction, ...] = (*_records(), *_pairs())
