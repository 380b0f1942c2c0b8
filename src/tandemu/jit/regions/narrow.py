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
from tandemu.isa.architecture import Isa
from tandemu.isa.guest import RESULTS, SOURCES
from tandemu.isa.instruction import Kind
from tandemu.jit.regions.context import RegionState, Registers, narrow_part, region_context
from tandemu.jit.regions.graph import Graph, GuestBlock, GuestInstruction
from tandemu.jit.regions.request import RegionKind
from tandemu.jit.shared.convention import tail_parameters
from tandemu.jit.shared.layout import cpu_layout

_WIDE = 64
Facts = frozenset[int]


class Narrow(NamedTuple):
    """What is known: registers that are narrow, by the address of the block."""

    at_start: Mapping[int, Facts]
    at_end: Mapping[int, Facts]
    checked: Facts
    """Registers that have to be narrow where the region is entered."""


NOTHING = Narrow({}, {}, frozenset())


def find_narrow(isa: Isa, kind: RegionKind, graph: Graph, read: Iterable[int]) -> Narrow:
    """The facts of *graph*; *read* are the registers whose values at the entry matter."""
    if isa.state.main.bits != _WIDE:
        return NOTHING
    entry = graph.entry
    around = _leading_to(graph, entry)
    made = {
        result
        for pc in around
        for one in graph.blocks[pc].instructions
        for result in one.results
        if result < isa.state.main.count
    }
    checked = frozenset(made.intersection(read))
    while True:
        at_start, at_end = _solve(isa, kind, graph, checked)
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
    isa: Isa, kind: RegionKind, graph: Graph, checked: Facts
) -> tuple[dict[int, Facts], dict[int, Facts]]:
    """The greatest facts that hold if *checked* are narrow at the entry."""
    start: dict[int, Facts] = {graph.entry: checked}
    end: dict[int, Facts] = {}
    pending = [graph.entry]
    while pending:
        pc = pending.pop()
        block = graph.blocks[pc]
        after = _after(isa, kind, block, start[pc])
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


def _after(isa: Isa, kind: RegionKind, block: GuestBlock, before: Facts) -> Facts:
    narrow, known = set(before), set(before)
    for one in block.instructions:
        if not one.compilable:
            break
        for result in one.results:
            if result >= isa.state.main.count:
                continue
            if _gives_narrow(isa, kind, one, result, narrow):
                known.add(result)
            else:
                known.discard(result)
        narrow = set(known)
    return frozenset(narrow)


# One instruction ---------------------------------------------------------------------------

_LINKING = (Kind.JUMP, Kind.INDIRECT)
_ZERO, _NARROW, _WIDE_VALUE = "zero", "narrow", "wide"
_KNOWN: dict[tuple[object, ...], bool] = {}
"""What was found out, by what matters of an instruction and its operands."""


def _gives_narrow(
    isa: Isa, kind: RegionKind, one: GuestInstruction, result: int, narrow: set[int]
) -> bool:
    main = isa.state.main
    sources: list[str] = []
    numbers: set[int] = set()
    for name in (*SOURCES, *RESULTS):
        if one.record.file(name) == main.name and one.reads(name):
            number = one.operands[name]
            numbers.add(number)
            is_zero = number == main.zero
            sources.append(_ZERO if is_zero else _NARROW if number in narrow else _WIDE_VALUE)
    # Semantics may fold what is chosen between two that are the same one, and a bit's number.
    place = one.results.index(result)
    key: tuple[object, ...] = (isa.name, one.record.name, place, *sources, len(numbers))
    record = one.record
    key = (*key, *(number for name, number in one.operands.items() if record.file(name) is None))
    if not one.accesses:
        key = (*key, one.operands.get("imm", 0))
    if one.record.kind in _LINKING or all(source == _ZERO for source in sources):
        # The result is a constant.
        key = (*key, one.pc, one.length)
    known = _KNOWN.get(key)
    if known is None:
        if len(_KNOWN) > 1 << 16:
            _KNOWN.clear()
        known = _KNOWN[key] = _trace(isa, kind, one, result, narrow)
    return known


def _trace(
    isa: Isa, kind: RegionKind, one: GuestInstruction, result: int, narrow: set[int]
) -> bool:
    """Whether *result* of *one* is narrow by its semantics."""
    layout = cpu_layout(isa.state)
    parameters = tail_parameters(isa.state.address_bits)
    builder = Builder("trace", parameters, convention="tail")
    assert one.record.semantics is not None
    used = {*one.sources, *one.results}
    registers = Registers(builder, layout, isa, used, used & narrow)
    registers.begin((), used & narrow)
    state = RegionState(builder, layout, isa, kind, registers, builder.budget)
    one.record.semantics(region_context(isa)(state, one, 1))
    return narrow_part(registers.read(result)) is not None
