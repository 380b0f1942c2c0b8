"""Exclusive and atomic accesses, and those with an order (Arm ARM, C4.1.93; FEAT_LSE, LRCPC).

An exclusive store is a compare-and-exchange with what the exclusive load found: a value that came
back in between (ABA) is not noticed, as in other emulators. On a host whose loads and stores are
ordered as x86's, an acquiring load is any load; a releasing store is followed by a fence, so that
no later load overtakes it.
"""

from __future__ import annotations

from collections.abc import Iterator

from tandemu.ir import I64, I, Value
from tandemu.isa.arm.formats import record
from tandemu.isa.arm.memory import Access, loading, storing
from tandemu.isa.instruction import Instruction, Kind, Semantics, Trait
from tandemu.isa.tracing import OperandContext

_LETTERS = "bhwx"
_HOST = frozenset({Trait.HOST_ATOMIC})
_HOST_READS = frozenset({Trait.HOST_ATOMIC, Trait.ONLY_READS})


def _at_base(access: Access) -> Semantics:
    def semantics(c: OperandContext) -> None:
        access(c, c.read("rs1"))

    return semantics


def _releasing(access: Access) -> Semantics:
    def semantics(c: OperandContext) -> None:
        access(c, c.read("rs1"))
        c.fence()

    return semantics


def _at_offset(access: Access) -> Semantics:
    def semantics(c: OperandContext) -> None:
        access(c, c.read("rs1") + c.imm)

    return semantics


def _load_exclusive(bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        c.write("rd", c.load_reserved(c.read("rs1"), bits).zext(I64))

    return semantics


def _store_exclusive(bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        done = c.store_conditional(c.read("rs1"), c.read("rs3").trunc(I(bits)), bits)
        c.write("rs2", (~done).zext(I64))

    return semantics


def _halves(value: Value, bits: int) -> tuple[Value, Value]:
    return value.trunc(I(bits)).zext(I64), (value >> bits).trunc(I(bits)).zext(I64)


def _whole(low: Value, high: Value, bits: int) -> Value:
    wide = I(2 * bits)
    return low.trunc(I(bits)).zext(wide) | (high.trunc(I(bits)).zext(wide) << bits)


def _load_exclusive_pair(bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        low, high = _halves(c.load_reserved(c.read("rs1"), 2 * bits), bits)
        c.write("rd", low)
        c.write("rd2", high)

    return semantics


def _store_exclusive_pair(bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        value = _whole(c.read("rs3"), c.read("rd2"), bits)
        done = c.store_conditional(c.read("rs1"), value, 2 * bits)
        c.write("rs2", (~done).zext(I64))

    return semantics


def _combine(kind: str, bits: int, inverted: bool) -> Semantics:
    def semantics(c: OperandContext) -> None:
        value = c.read("rs2").trunc(I(bits))
        old = c.atomic(kind, c.read("rs1"), ~value if inverted else value, bits)
        c.write("rd", old.zext(I64))

    return semantics


def _compare_and_swap(bits: int) -> Semantics:
    def semantics(c: OperandContext) -> None:
        expected, new = c.read("rs2").trunc(I(bits)), c.read("rs3").trunc(I(bits))
        c.write("rs2", c.exchange_if(c.read("rs1"), expected, new).zext(I64))

    return semantics


def _records() -> Iterator[Instruction]:
    for log, letter in enumerate(_LETTERS):
        size, bits = f"{log:02b}", 8 << log
        for acquires, prefix in ((0, "ldxr"), (1, "ldaxr")):
            yield record(
                f"{prefix}.{letter}", f"{size}001000 010 11111 {acquires} 11111 NNNNN ddddd",
                _load_exclusive(bits), kind=Kind.ATOMIC, access=bits // 8, traits=_HOST_READS,
            )  # fmt: skip
        for releases, prefix in ((0, "stxr"), (1, "stlxr")):
            yield record(
                f"{prefix}.{letter}", f"{size}001000 000 mmmmm {releases} 11111 NNNNN ttttt",
                _store_exclusive(bits), kind=Kind.ATOMIC, access=bits // 8, traits=_HOST,
            )  # fmt: skip
        for o0, store_name, load_name in ((1, "stlr", "ldar"), (0, "stllr", "ldlar")):
            yield record(
                f"{load_name}.{letter}", f"{size}001000 110 11111 {o0} 11111 NNNNN ddddd",
                _at_base(loading(bits)), kind=Kind.LOAD, access=bits // 8,
            )  # fmt: skip
            yield record(
                f"{store_name}.{letter}", f"{size}001000 100 11111 {o0} 11111 NNNNN ttttt",
                _releasing(storing(bits)), kind=Kind.STORE, access=bits // 8,
            )  # fmt: skip
        yield record(
            f"ldapr.{letter}", f"{size}111000 101 11111 110000 NNNNN ddddd",
            _at_base(loading(bits)), kind=Kind.LOAD, access=bits // 8, extension="LRCPC",
        )  # fmt: skip
        yield from _unscaled(size, letter, log)
        yield from _lse(size, letter, bits)
    for size, letter, bits in (("10", "w", 32), ("11", "x", 64)):
        for acquires, prefix in ((0, "ldxp"), (1, "ldaxp")):
            yield record(
                f"{prefix}.{letter}", f"{size}001000 011 11111 {acquires} aaaaa NNNNN ddddd",
                _load_exclusive_pair(bits), kind=Kind.ATOMIC, access=bits // 4,
                traits=_HOST_READS if bits == 32 else frozenset({Trait.ONLY_READS}),
            )  # fmt: skip
        for releases, prefix in ((0, "stxp"), (1, "stlxp")):
            yield record(
                f"{prefix}.{letter}", f"{size}001000 001 mmmmm {releases} aaaaa NNNNN ttttt",
                _store_exclusive_pair(bits), kind=Kind.ATOMIC, access=bits // 4, traits=_HOST,
            )  # fmt: skip


def _unscaled(size: str, letter: str, log: int) -> Iterator[Instruction]:
    """FEAT_LRCPC2."""
    bits = 8 << log
    forms: list[tuple[str, str, Access, bool]] = [
        ("stlur", "00", storing(bits), True), ("ldapur", "01", loading(bits), False)
    ]  # fmt: skip
    if log < 3:
        forms.append(("ldapurs", "10", loading(bits, 64), False))
    if log < 2:
        forms.append(("ldapursw", "11", loading(bits, 32), False))
    for name, opc, access, stores in forms:
        yield record(
            f"{name}.{letter}",
            f"{size}011001{opc} 0 iiiiiiiii 00 NNNNN {'ttttt' if stores else 'ddddd'}",
            _at_offset(access), signed=True, extension="LRCPC2",
            kind=Kind.STORE if stores else Kind.LOAD, access=bits // 8,
        )  # fmt: skip


_LSE = (
    ("ldadd", 0, 0, "add", False), ("ldclr", 0, 1, "and", True), ("ldeor", 0, 2, "xor", False),
    ("ldset", 0, 3, "or", False), ("ldsmax", 0, 4, "max", False), ("ldsmin", 0, 5, "min", False),
    ("ldumax", 0, 6, "umax", False), ("ldumin", 0, 7, "umin", False), ("swp", 1, 0, "xchg", False),
)  # fmt: skip


def _lse(size: str, letter: str, bits: int) -> Iterator[Instruction]:
    for name, o3, opc, kind, inverted in _LSE:
        # Every order is the host's: both bits ask for less than it gives.
        yield record(
            f"{name}.{letter}", f"{size}111000 kq1 mmmmm {o3}{opc:03b}00 NNNNN ddddd",
            _combine(kind, bits, inverted), kind=Kind.ATOMIC, access=bits // 8, extension="LSE",
            traits=_HOST if kind in ("add", "xchg") else frozenset(),
        )  # fmt: skip
    yield record(
        f"cas.{letter}", f"{size}0010001 k1 mmmmm q 11111 NNNNN ttttt",
        _compare_and_swap(bits), kind=Kind.ATOMIC, access=bits // 8, extension="LSE", traits=_HOST,
    )  # fmt: skip


INSTRUCTIONS: tuple[Instruction, ...] = tuple(_records())
