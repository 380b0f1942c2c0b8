"""Loads and stores of one register or several that follow one another, lane by lane.

Arm ARM, C4.1.93: "Advanced SIMD load/store multiple structures" and "single structure". Here are
LD1 and ST1 of one to four registers and of one lane, and LD1R; structures (LD2 to LD4, ST2 to ST4)
are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tandemu.ir import I64, Constant, Value, vector_of
from tandemu.ir.vectors import splat
from tandemu.isa.arm.formats import record
from tandemu.isa.arm.vector_lanes import BITS, write_vector
from tandemu.isa.arm.vector_moves import put_lane, take_lane
from tandemu.isa.instruction import Instruction, Kind
from tandemu.isa.tracing import OperandContext

Access = Callable[[OperandContext, Value], None]


def _load(whole: bool) -> Access:
    def access(c: OperandContext, address: Value) -> None:
        if whole:
            c.write("rd", c.load_vector(address, 128))
        else:
            c.write("rd", vector_of(c.load(address, 64), Constant(I64, 0)))

    return access


def _store(whole: bool) -> Access:
    def access(c: OperandContext, address: Value) -> None:
        value = c.read("rs3")
        c.store(address, value if whole else value.lane(0, 64))

    return access


def _load_several(count: int, whole: bool) -> Access:
    """Registers that follow one another; all are read before one is written."""

    def access(c: Any, address: Value) -> None:
        size, zero = 16 if whole else 8, Constant(I64, 0)
        found = [
            c.load_vector(address + size * number, 128)
            if whole
            else vector_of(c.load(address + size * number, 64), zero)
            for number in range(count)
        ]
        c.write("rd", found[0])
        for number in range(1, count):
            c.write_next("rd", number, found[number])

    return access


def _store_several(count: int, whole: bool) -> Access:
    def access(c: Any, address: Value) -> None:
        size = 16 if whole else 8
        for number in range(count):
            value = c.read_next("rs3", number) if number else c.read("rs3")
            c.store(address + size * number, value if whole else value.lane(0, 64))

    return access


def _load_lane(lane: int) -> Access:
    def access(c: OperandContext, address: Value) -> None:
        value = c.load(address, lane)
        c.write("rd", put_lane(c.read("rd"), c.field("k"), value))

    return access


def _store_lane(lane: int) -> Access:
    def access(c: OperandContext, address: Value) -> None:
        c.store(address, take_lane(c.read("rs3"), c.field("k"), lane))

    return access


def _load_all(lane: int) -> Access:
    def access(c: OperandContext, address: Value) -> None:
        write_vector(c, splat(c.load(address, lane), BITS))

    return access


def _plain(access: Access) -> Callable[[OperandContext], None]:
    def semantics(c: OperandContext) -> None:
        access(c, c.read("rs1"))

    return semantics


def _stepping(access: Access, step: int | None) -> Callable[[OperandContext], None]:
    """The base register moves by the size of the access, or by another register."""

    def semantics(c: OperandContext) -> None:
        address = c.read("rs1")
        more = c.read("rs2") if step is None else Constant(I64, step)
        access(c, address)
        c.write("rs1", address + more)

    return semantics


def _forms(name: str, head: str, tail: str, access: Access, size: int, loads: bool,
           extra: str = "", several: bool = False) -> Iterator[Instruction]:  # fmt: skip
    # A program's regions have no atomic accesses but some: these are left to their stencils.
    kind = Kind.ATOMIC if several else Kind.LOAD if loads else Kind.STORE
    register = "vvvvv" if loads else "xxxxx"
    load = 1 if loads else 0
    plain = f"{head}0{load}{extra}00000 {tail} NNNNN {register}"
    yield record(name, plain, _plain(access), kind=kind, access=size, extension="AdvSIMD memory")
    yield record(
        f"{name}_post", f"{head}1{load}{extra}11111 {tail} NNNNN {register}",
        _stepping(access, size), kind=kind, access=size, extension="AdvSIMD memory",
        specialises=f"{name}_by",
    )  # fmt: skip
    yield record(
        f"{name}_by", f"{head}1{load}{extra}mmmmm {tail} NNNNN {register}",
        _stepping(access, None), kind=kind, access=size, extension="AdvSIMD memory",
    )  # fmt: skip


def _records() -> Iterator[Instruction]:
    for whole in (False, True):
        size = 16 if whole else 8
        head = f"0{int(whole)}001100"
        yield from _forms(f"ld1.{size}", head, "0111 kk", _load(whole), size, True, "0")
        yield from _forms(f"st1.{size}", head, "0111 kk", _store(whole), size, False, "0")
        for count, opcode in ((2, "1010"), (3, "0110"), (4, "0010")):
            tail, bytes_ = f"{opcode} kk", count * size
            load, store = _load_several(count, whole), _store_several(count, whole)
            yield from _forms(
                f"ld1_{count}.{size}", head, tail, load, bytes_, True, "0", several=True
            )
            yield from _forms(
                f"st1_{count}.{size}", head, tail, store, bytes_, False, "0", several=True
            )
    for log, opcode, index in (
        (0, "000", "kkk"), (1, "010", "kk0"), (2, "100", "k00"), (3, "100", "001"),
    ):  # fmt: skip
        lane = 8 << log
        if log == 3:
            # Q is the lane's number.
            head, tail = "0k001101", f"{opcode} {index}"
            yield from _forms(f"ld1_lane.{lane}", head, tail, _load_lane(lane), 8, True, "0")
            yield from _forms(f"st1_lane.{lane}", head, tail, _store_lane(lane), 8, False, "0")
            continue
        for q in (0, 1):
            head, tail = f"0{q}001101", f"{opcode} {index}"
            for name, loads in (("ld1", True), ("st1", False)):
                make = _upper_lane(lane, q, loads)
                yield from _forms(
                    f"{name}_lane.{lane}q{q}", head, tail, make, lane // 8, loads, "0"
                )
    for log in range(4):
        lane = 8 << log
        yield from _forms(
            f"ld1r.{lane}", "0q001101", f"110 0{log:02b}", _load_all(lane), lane // 8, True, "0"
        )


def _upper_lane(lane: int, q: int, loads: bool) -> Access:
    """Q is the highest bit of the lane's number."""

    def access(c: OperandContext, address: Value) -> None:
        number = c.field("k") + q * (64 // lane)
        if loads:
            value = c.load(address, lane)
            c.write("rd", put_lane(c.read("rd"), number, value))
        else:
            c.store(address, take_lane(c.read("rs3"), number, lane))

    return access


INSTRUCTIONS: tuple[Instruction, ...] = tuple(_records())
