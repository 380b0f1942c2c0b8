"""Which registers hold the sign extension of 32 bits where a block of a region begins.

RV64 keeps every ``int`` so. Where that is known a region keeps the 32 bits: the extension is
made where all 64 are looked at, not in every turn of a loop. What an instruction's result is
comes from its semantics, traced with operands that are narrow or not.

A register that comes to the region from outside is believed to be narrow if the region's own
code, coming back to the entry, makes it so, and is checked there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tandemu.ir import Builder
from tandemu.isa.instruction import Kind
from tandemu.jit.regions.context import RegionContext, RegionState, Registers, narrow_part
from tandemu.jit.regions.graph import FLOATS, Graph, GuestBlock, GuestInstruction
from tandemu.jit.regions.request import RegionKind
from tandemu.jit.shared.convention import tail_parameters
from tandemu.jit.shared.layout import cpu_layout

_WIDE_XLEN = 64
Facts = frozenset[int]


class Narrow(NamedTuple):
    """What is known: registers that are narrow, by the address of the block."""

    at_start: Mapping[int, Facts]
    at_end: Mapping[int, Facts]
    checked: Facts
    """Registers that have to be narrow where the region is entered."""


NOTHING = Narrow({}, {}, frozenset())


def find_narrow(kind: RegionKind, graph: Graph, read: Iterable[int]) -> Narrow:
    """The facts of *graph*; *read* are the registers whose values at the entry matter."""
    if kind.xlen != _WIDE_XLEN:
        return NOTHING
    entry = graph.entry
    around = _leading_to(graph, entry)
    made = {
        one.result
        for pc in around
        for one in graph.blocks[pc].instructions
        if one.result is not None and one.result < FLOATS
    }
    checked = frozenset(made.intersection(read))
    while True:
        at_start, at_end = _solve(kind, graph, checked)
        # (What comes after a call that does not return in here is in the graph, but not reached.)
        coming = [facts for pc, facts in at_end.items() if entry in graph.blocks[pc].successors]
        kept = checked.intersection(*coming) if coming else frozenset()
        if kept == checked:
            return Narrow(at_start, at_end, checked)
        checked = kept


def _leading_to(graph: Graph, entry: int) -> set[int]:
    """The blocks from which *entry* is reached."""
    before: dict[int, list[int]] = {}
    for block in graph.blocks.values():
        for target in block.successors:
            before.setdefault(target, []).append(block.pc)
    found: set[int] = set()
    pending = list(before.get(entry, ()))
    while pending:
        pc = pending.pop()
        if pc not in found:
            found.add(pc)
            pending.extend(before.get(pc, ()))
    return found


def _solve(
    kind: RegionKind, graph: Graph, checked: Facts
) -> tuple[dict[int, Facts], dict[int, Facts]]:
    """The greatest facts that hold if *checked* are narrow at the entry."""
    start: dict[int, Facts] = {graph.entry: checked}
    end: dict[int, Facts] = {}
    pending = [graph.entry]
    while pending:
        pc = pending.pop()
        block = graph.blocks[pc]
        after = _after(kind, block, start[pc])
        if end.get(pc) == after:
            continue
        end[pc] = after
        for target in block.successors:
            if target not in graph.blocks or target == graph.entry:
                continue
            known = start.get(target)
            met = after if known is None else known & after
            if met != known:
                start[target] = met
                pending.append(target)
    return start, end


def _after(kind: RegionKind, block: GuestBlock, before: Facts) -> Facts:
    narrow = set(before)
    for one in block.instructions:
        if not one.compilable:
            break
        result = one.result
        if result is not None and result < FLOATS:
            if _gives_narrow(kind, one, narrow):
                narrow.add(result)
            else:
                narrow.discard(result)
    return frozenset(narrow)


# One instruction ---------------------------------------------------------------------------

_LINKING = (Kind.JUMP, Kind.INDIRECT)
_ZERO, _NARROW, _WIDE = "zero", "narrow", "wide"
_KNOWN: dict[tuple[object, ...], bool] = {}
"""What was found out, by what matters of an instruction and its operands."""


def _gives_narrow(kind: RegionKind, one: GuestInstruction, narrow: set[int]) -> bool:
    sources: list[str] = []
    numbers: set[int] = set()
    for name in ("rs1", "rs2"):
        if one.record.file(name) == "x":
            number = one.operands[name]
            numbers.add(number)
            sources.append(_ZERO if not number else _NARROW if number in narrow else _WIDE)
    # Semantics may fold what is chosen between two that are the same one, and a bit's number.
    key: tuple[object, ...] = (one.record.name, *sources, len(numbers))
    if not one.accesses:
        key = (*key, one.operands.get("imm", 0))
    if one.record.kind in _LINKING or all(source == _ZERO for source in sources):
        # The result is a constant.
        key = (*key, one.pc, one.length)
    known = _KNOWN.get(key)
    if known is None:
        if len(_KNOWN) > 1 << 16:
            _KNOWN.clear()
        known = _KNOWN[key] = _trace(kind, one, narrow)
    return known


def _trace(kind: RegionKind, one: GuestInstruction, narrow: set[int]) -> bool:
    """Whether the result of *one* is narrow by its semantics."""
    layout = cpu_layout(kind.xlen)
    builder = Builder("trace", tail_parameters(kind.xlen), convention="tail")
    assert one.record.semantics is not None and one.result is not None
    used = {*one.sources, one.result} - {0}
    registers = Registers(builder, layout, kind.xlen, used, used & narrow)
    registers.begin((), used & narrow)
    context = RegionContext(RegionState(builder, layout, kind, registers, builder.budget), one, 1)
    one.record.semantics(context)
    return narrow_part(registers.read(one.result)) is not None
