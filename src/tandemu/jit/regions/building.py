"""A region as one function: its blocks, its loops, and how control goes between them.

Every guest block becomes a place in the function. The budget is taken a block at a
time; it is looked at where a region is entered and where a loop closes, so that no
guest code runs on without end. What is handed to other code is in
`convention`; symbols stand for what is known when the region is installed: `EXIT_0` …
(code at other guest addresses), `FALLBACK` (the stencils' code at the entry), `SITES`,
and run-time routines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tandemu.ir import I1, I32, I64, PTR, Builder, Constant, Function, Value
from tandemu.ir.program import Place
from tandemu.isa.architecture import Isa
from tandemu.isa.instruction import Kind
from tandemu.jit.regions.context import (
    RegionBuilder,
    RegionContext,
    RegionState,
    Registers,
    region_context,
)
from tandemu.jit.regions.counted import CountedLoop, find_counted
from tandemu.jit.regions.graph import Graph, GuestBlock
from tandemu.jit.regions.liveness import (
    all_registers,
    live_at_start,
    pending_at_start,
    storing_loops,
)
from tandemu.jit.regions.narrow import NOTHING, Narrow, find_narrow
from tandemu.jit.regions.object_code import REGION_NAME
from tandemu.jit.regions.request import VERY_HOT, RegionKind
from tandemu.jit.regions.turns import LEAST_TURNS
from tandemu.jit.shared.convention import leaving_operands, tail_parameters
from tandemu.jit.shared.layout import cpu_layout
from tandemu.jit.translate.contexts import aligned
from tandemu.memory.layout import PAGE_SIZE

_ATTRIBUTES = '"frame-pointer"="none" "no-jump-tables"="true"'


def build_region(
    isa: Isa, kind: RegionKind, graph: Graph, level: int
) -> tuple[Function, RegionState, list[CountedLoop]]:
    """The function of a region, what its trace left behind, and the loops that it calls."""
    read = live_at_start(graph, kind, leaving=frozenset())[graph.entry]
    narrow = find_narrow(isa, kind, graph, read) if level == VERY_HOT else NOTHING
    layout, bits = cpu_layout(isa.state), isa.state.address_bits
    floating = any(one.record.floating for b in graph.blocks.values() for one in b.instructions)
    attributes = _ATTRIBUTES + (" strictfp" if floating else "")
    b = RegionBuilder(REGION_NAME, tail_parameters(bits), convention="tail", attributes=attributes)
    cpu = b.struct(layout, b.cpu)
    with b.If(b.budget.slt(1), likely=False):
        cpu.pc = graph.entry
        b.TailCall("region_poll", *leaving_operands(b))
    if floating:
        # Floating point is off, or the rounding mode has no counterpart.
        with b.If(getattr(cpu, isa.state.float_guard) != 0, likely=False):
            b.TailCall("FALLBACK", *leaving_operands(b))
    somewhere = frozenset().union(*narrow.at_start.values())
    registers = Registers(b, layout, isa, _used(graph), sorted(somewhere), lazy=not kind.watched)
    _check(registers, narrow.checked)
    state = RegionState(b, layout, isa, kind, registers, b.budget)
    live = live_at_start(graph, kind, leaving=all_registers(isa.state))
    plan = _Plan(state, graph, {pc: b.place() for pc in graph.blocks}, narrow)
    loops: list[CountedLoop] = []
    pending = pending_at_start(graph, kind)
    b.Goto(plan.places[graph.entry])
    for block in graph.blocks.values():
        b.Put(plan.places[block.pc])
        facts = narrow.at_start.get(block.pc, frozenset())
        registers.begin(pending[block.pc], facts)
        count = len(block.instructions)
        if level == VERY_HOT:
            loop = find_counted(isa, kind, layout, block, facts, f"loop_{len(loops)}")
            if loop is not None:
                loops.append(loop)
                _make_counted(state, block, loop)
                registers.begin(pending[block.pc], facts)
        if level == VERY_HOT and _is_small_loop(kind, block):
            left = state.budget.value - _TURNS * count
            with b.If(left.sge(0), likely=True):
                state.budget.value = left
                _turns(plan, block)
            registers.begin(pending[block.pc], facts)
        left = state.budget.value - count
        if block.pc in graph.loops:
            with b.If(left.slt(0), likely=False):
                state.leave_for_poll(block.pc, left + count, live[block.pc])
        state.take(left, block)
        context = _instructions(state, block, 0)
        if context is not None:
            _end(plan, block, context)
    return b.finish(), state, loops


class _Plan(NamedTuple):
    """A region being built."""

    state: RegionState
    graph: Graph
    places: Mapping[int, Place]
    """Where the code of a block begins, by its address."""
    narrow: Narrow

    def end_block(self, block: GuestBlock) -> None:
        """Put what *block* has written where the next block in here finds it."""
        registers = self.state.registers
        facts = self.narrow.at_end.get(block.pc, frozenset())
        registers.end(facts & registers.narrow_variables.keys())


def _make_counted(state: RegionState, block: GuestBlock, loop: CountedLoop) -> None:
    """Let the function of the loop *block* make as many turns as are known and allowed."""
    registers, b = state.registers, state.ir
    size, step = len(block.instructions), abs(loop.turns.step)
    distance, holds = loop.turns.distance(registers)
    worth = distance.sge(LEAST_TURNS * step) & state.budget.value.sge(LEAST_TURNS * size)
    with b.If(worth if holds is None else worth & holds), registers.aside():
        turns = _least(b, distance.udiv(step), state.budget.value.udiv(size))
        if state.kind.flat:
            _call_loop(state, block, loop, turns, [b.tlb])
            return
        places: dict[int, Value] = {}
        good: Value = Constant(I1, 1)
        for walk in loop.walks:
            looked, room, places[walk.register] = walk.look(b, registers)
            good = good & looked
            turns = turns if room is None else _least(b, turns, room)
        with b.If(good & turns.uge(LEAST_TURNS)), registers.aside():
            nothing = Constant(PTR, 0)
            given = [places.get(register, nothing) for register in loop.pointers]
            _call_loop(state, block, loop, turns, given)


def _least(b: Builder, one: Value, other: Value) -> Value:
    return b.select(one.ult(other), one, other)


def _call_loop(
    state: RegionState, block: GuestBlock, loop: CountedLoop, turns: Value, places: list[Value]
) -> None:
    """Make *turns* of the loop *block*; memory hands its registers over and back."""
    registers, b = state.registers, state.ir
    registers.store(keep=registers.pending - loop.read)
    b.call(loop.function.name, b.cpu, turns, *places)
    state.budget.value = state.budget.value - turns * len(block.instructions)
    for register in sorted(loop.written):
        registers.fetch(register)


_TURNS, _SMALL_LOOP = 4, 16
"""So many turns of a loop of so many instructions at most are made with one look at the budget."""


def _is_small_loop(kind: RegionKind, block: GuestBlock) -> bool:
    """Whether *block* is a loop by itself of which several turns can be made at once."""
    return (
        not kind.stores_first
        and len(block.instructions) <= _SMALL_LOOP
        and block.last.record.kind is Kind.BRANCH
        and block.last.target == block.pc
        and all(one.compilable for one in block.instructions)
    )


def _turns(plan: _Plan, block: GuestBlock) -> None:
    """Some turns of the loop *block*, for which the budget is taken already."""
    state, count = plan.state, len(block.instructions)
    for left in range((_TURNS - 1) * count, -1, -count):
        context = _instructions(state, block, left)
        assert context is not None and context.taken is not None
        if not left:
            _end(plan, block, context)
            return
        with state.ir.If(~context.taken), state.registers.aside():
            state.budget.value = state.budget.value + left
            plan.end_block(block)
            _go(plan, block, block.last.next_pc)


def _check(registers: Registers, narrow: frozenset[int]) -> None:
    """Leave the region to the stencils unless the registers in *narrow* are."""
    b = registers.ir
    wide: Value | None = None
    for register in sorted(narrow):
        value = registers.variables[register].value
        part = value.trunc(I32)
        registers.narrow_variables[register].value = part
        differs = part.sext(I64) ^ value
        wide = differs if wide is None else wide | differs
    if wide is not None:
        with b.If(wide != 0, likely=False):
            b.TailCall("FALLBACK", *leaving_operands(b))


def _used(graph: Graph) -> set[int]:
    used: set[int] = set()
    for block in graph.blocks.values():
        for one in block.instructions:
            used.update(one.sources)
            used.update(one.results)
    return used


def _instructions(state: RegionState, block: GuestBlock, left: int) -> RegionContext | None:
    """Trace *block*; the context of its last instruction, None if control does not come there.

    *left*: instructions behind it for which the budget is taken already.
    """
    left += len(block.instructions)
    context_class = region_context(state.isa)
    for index, one in enumerate(block.instructions):
        context = context_class(state, one, left - index)
        if not one.compilable:
            if state.kind.flat and one.record.kind is Kind.ATOMIC:
                # The stencil's access may be refused by the host, the interpreter's may not.
                state.budget.value = state.budget.value + (left - index)
                state.leave_to(one.pc)
            else:
                context.interpret()
            return None
        # Read here, where every block of the instruction's own may use it. (A number that is
        # not canonical yet is made so by whoever asks for its pattern, before such blocks.)
        for register in one.sources:
            state.registers.unsettled(register)
        assert one.record.semantics is not None
        one.record.semantics(context)
    return context


def _end(plan: _Plan, block: GuestBlock, context: RegionContext) -> None:
    """Go where *block* leads, whose last instruction was traced with *context*."""
    state, last = plan.state, block.last
    plan.end_block(block)

    def go(target: int) -> None:
        _go(plan, block, target)

    match last.record.kind:
        case Kind.BRANCH:
            taken = context.taken
            assert taken is not None
            if isinstance(taken, Constant):
                go(last.target if taken.value else last.next_pc)
                return
            with state.ir.If(taken):
                go(last.target)
            go(last.next_pc)
        case Kind.JUMP:
            go(last.target)
        case Kind.INDIRECT:
            assert context.target is not None
            target = aligned(state.guest_state, context.target).zext(I64)
            for place in block.returns:
                with state.ir.If(target == place):
                    go(place)
            state.leave_through_cache(target)
        case _:
            assert block.following is not None
            go(block.following)


def _go(plan: _Plan, block: GuestBlock, target: int) -> None:
    """Go from the end of *block* to the guest address *target*, known now."""
    state, kind = plan.state, plan.state.kind
    # A call may leave even if its target is here: it is no edge of the graph then.
    if target in plan.places and target in block.successors:
        loops = storing_loops(plan.graph, kind)
        if target in loops:
            state.registers.store(keep=loops[target], ordered=kind.flat)
        state.ir.Goto(plan.places[target])
    elif _is_linked(state, target, block.last.pc):
        state.leave_to(target)
    else:
        state.leave_through_cache(Constant(I64, target))


def _is_linked(state: RegionState, target: int, pc: int) -> bool:
    """Whether *target*, seen from *pc*, stays where it is for as long as the region does."""
    free = state.kind.flat or state.kind.context in state.guest_state.unpaged
    return free or (target ^ pc) & -PAGE_SIZE == 0
