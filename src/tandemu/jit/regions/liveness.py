"""Which registers matter where the blocks of a region begin: data flow over its graph."""

from __future__ import annotations

from collections.abc import Mapping

from tandemu.isa.architecture import State
from tandemu.isa.instruction import Kind
from tandemu.jit.regions.graph import Graph
from tandemu.jit.regions.request import RegionKind


def pending_at_start(graph: Graph, kind: RegionKind) -> dict[int, set[int]]:
    """For each block, the registers whose copy in memory may be old where it begins.

    Where memory is brought up to date inside loops, only what a loop writes itself may be
    where it begins: the rest is stored on the way, or it would be stored in every turn.
    """
    loops = storing_loops(graph, kind)
    made: dict[int, set[int]] = {}
    cleared: dict[int, bool] = {}
    for block in graph.blocks.values():
        some: set[int] = set()
        clears = False
        for one in block.instructions:
            if kind.stores_first and one.accesses:
                some, clears = set(), True
            some.update(one.results)
        made[block.pc], cleared[block.pc] = some, clears
    start: dict[int, set[int]] = {pc: set() for pc in graph.blocks}
    pending = list(graph.blocks)
    while pending:
        pc = pending.pop()
        out = made[pc] if cleared[pc] else made[pc] | start[pc]
        for target in graph.blocks[pc].successors:
            if target not in start:
                continue
            reaching = out & loops.get(target, out)
            if not reaching <= start[target]:
                start[target] |= reaching
                pending.append(target)
    return start


def all_registers(state: State) -> frozenset[int]:
    """Every register but those that are always zero."""
    return frozenset(
        number
        for file in state.files
        for index in range(file.count)
        if (number := state.number(file.name, index)) is not None
    )


def live_at_start(graph: Graph, kind: RegionKind, leaving: frozenset[int]) -> dict[int, set[int]]:
    """For each block, the registers that may be read before they are written.

    *leaving*: those that count as read where the region is left.
    """
    every = set(leaving)
    reads: dict[int, set[int]] = {}
    writes: dict[int, set[int]] = {}
    for block in graph.blocks.values():
        read: set[int] = set()
        written: set[int] = set()
        for one in block.instructions:
            if not one.compilable or (one.accesses and kind.watched):
                # It may trap, and its handler sees them all. (They are at hand where it does:
                # this takes no more registers.)
                read |= every - written
            if not one.compilable:
                break
            read |= set(one.sources) - written
            written.update(one.results)
        reads[block.pc], writes[block.pc] = read, written
    live = {pc: set(read) for pc, read in reads.items()}
    changed = True
    while changed:
        changed = False
        for pc, block in reversed(graph.blocks.items()):
            after: set[int] = set()
            targets = block.successors
            for target in targets:
                after |= live.get(target, every)
            if not targets or block.last.record.kind is Kind.INDIRECT:
                after = every
            before = reads[pc] | (after - writes[pc])
            if before != live[pc]:
                live[pc], changed = before, True
    return live


def storing_loops(graph: Graph, kind: RegionKind) -> Mapping[int, frozenset[int]]:
    return graph.loops if kind.watched else {}
