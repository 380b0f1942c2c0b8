"""Compiling a region: guest code to a function of the embedded language to host code.

Every guest block becomes a place in the function. The budget is taken a block at a
time; it is looked at where a region is entered and where a loop closes, so that no
guest code runs on without end. What is handed to other code is in
`convention`; symbols stand for what is known when the region is installed: `EXIT_0` …
(code at other guest addresses), `FALLBACK` (the stencils' code at the entry), `SITES`,
and run-time routines.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Collection, Mapping
from typing import NamedTuple

from tandemu.bits import align_up
from tandemu.ir import I1, I32, I64, PTR, Builder, Constant, Function, IrError, Value, lower
from tandemu.ir.llvm import MARKS
from tandemu.ir.program import Place
from tandemu.isa.instruction import Kind
from tandemu.isa.riscv.instruction_set import InstructionSet
from tandemu.jit.convention import leaving_operands, tail_parameters
from tandemu.jit.layout import PAGE_SIZE, cpu_layout
from tandemu.jit.regions.context import (
    OWN_STORE,
    RegionBuilder,
    RegionContext,
    RegionState,
    Registers,
    Site,
)
from tandemu.jit.regions.counted import LEAST_TURNS, CountedLoop, find_counted
from tandemu.jit.regions.graph import FLOATS, Graph, GuestBlock, find_graph
from tandemu.jit.regions.narrow import NOTHING, Narrow, find_narrow
from tandemu.jit.regions.request import (
    VERY_HOT,
    Refusal,
    Region,
    RegionKind,
    RegionRelocation,
    RegionRequest,
    RegionSite,
)
from tandemu.native.compiler import compile_region
from tandemu.native.elf_object import UNDEFINED, ElfObject, RelocationKind, SectionFlag
from tandemu.native.errors import NativeError

_NAME = "region"
_ATTRIBUTES = '"frame-pointer"="none" "no-jump-tables"="true"'
_SIZE_LIMIT = 1 << 18


class Unfit(Exception):
    """This guest code becomes no region; the message says why."""


def compile_request(isa: InstructionSet, request: RegionRequest) -> Region | Refusal:
    """Compile what *request* asks for."""
    began = time.monotonic_ns()
    kind = request.kind
    try:
        graph = find_graph(isa, request.pages, request.pc, kind, request.level)
        if graph is None:
            raise Unfit("its first instruction is the interpreter's")
        function, state, loops = build_region(kind, graph, request.level)
        apart = lower([loop.function for loop in loops]) if loops else None
        object_bytes, optimised = compile_region(lower([function]), request.level, apart)
        code, relocations, marks, functions = _cut(object_bytes)
        # Some may be gone for good: what cannot be reached is dropped.
        if state.marked - marks.keys() and not told_apart(optimised, marks):
            raise Unfit("accesses cannot be told by their host instructions")
    except (Unfit, IrError, NativeError) as error:
        return Refusal(kind, request.pc, str(error))
    sites = [_site(one, tuple(marks.get(n, ()))) for n, one in enumerate(state.sites)]
    if kind.flat:
        sites += [
            _site(Site(loop.access, 0), *functions[loop.function.name])
            for loop in loops
            if loop.access
        ]
    return Region(
        kind,
        request.pc,
        request.level,
        graph.instructions,
        tuple((start, _bytes(request.pages, start, end)) for start, end in graph.extents()),
        code,
        relocations,
        tuple(state.exits),
        tuple(sites),
        time.monotonic_ns() - began,
    )


def _site(site: Site, places: tuple[int, ...], size: int = 0) -> RegionSite:
    one = site.instruction
    # As in `translator.interpret`: bit 0 says the length.
    word = one.word ^ (1 if one.length == 2 else 0)
    return RegionSite(one.pc, word, one.form, site.remaining, places, size)


def _bytes(pages: Mapping[int, bytes], start: int, end: int) -> bytes:
    result = b""
    while start < end:
        page = start & -PAGE_SIZE
        stop = min(end, page + PAGE_SIZE)
        result += pages[page][start - page : stop - page]
        start = stop
    return result


# Building -------------------------------------------------------------------------------


def build_region(
    kind: RegionKind, graph: Graph, level: int
) -> tuple[Function, RegionState, list[CountedLoop]]:
    """The function of a region, what its trace left behind, and the loops that it calls."""
    read = _live_at_start(graph, kind, leaving=frozenset())[graph.entry]
    narrow = find_narrow(kind, graph, read) if level == VERY_HOT else NOTHING
    layout = cpu_layout(kind.xlen)
    floating = any(one.record.floating for b in graph.blocks.values() for one in b.instructions)
    attributes = _ATTRIBUTES + (" strictfp" if floating else "")
    b = RegionBuilder(_NAME, tail_parameters(kind.xlen), convention="tail", attributes=attributes)
    cpu = b.struct(layout, b.cpu)
    with b.If(b.budget.slt(1), likely=False):
        cpu.pc = graph.entry
        b.TailCall("region_poll", *leaving_operands(b))
    if floating:
        # FS is not Dirty, or the rounding mode has no counterpart.
        with b.If(cpu.float_slow != 0, likely=False):
            b.TailCall("FALLBACK", *leaving_operands(b))
    somewhere = frozenset().union(*narrow.at_start.values())
    registers = Registers(
        b, layout, kind.xlen, _used(graph), sorted(somewhere), lazy=not kind.watched
    )
    _check(registers, narrow.checked)
    state = RegionState(b, layout, kind, registers, b.budget)
    live = _live_at_start(graph, kind, leaving=_ALL)
    plan = _Plan(state, graph, {pc: b.place() for pc in graph.blocks}, narrow)
    loops: list[CountedLoop] = []
    pending = _pending_at_start(graph, kind)
    b.Goto(plan.places[graph.entry])
    for block in graph.blocks.values():
        b.Put(plan.places[block.pc])
        facts = narrow.at_start.get(block.pc, frozenset())
        registers.begin(pending[block.pc], facts)
        count = len(block.instructions)
        if level == VERY_HOT:
            loop = find_counted(kind, layout, block, facts, f"loop_{len(loops)}")
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
            if one.result is not None:
                used.add(one.result)
    return used - {0}


def _pending_at_start(graph: Graph, kind: RegionKind) -> dict[int, set[int]]:
    """For each block, the registers whose copy in memory may be old where it begins.

    Where memory is brought up to date inside loops, only what a loop writes itself may be
    where it begins: the rest is stored on the way, or it would be stored in every turn.
    """
    loops = _storing_loops(graph, kind)
    made: dict[int, set[int]] = {}
    cleared: dict[int, bool] = {}
    for block in graph.blocks.values():
        some: set[int] = set()
        clears = False
        for one in block.instructions:
            if kind.stores_first and one.accesses:
                some, clears = set(), True
            if one.result is not None:
                some.add(one.result)
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


_ALL = frozenset(range(1, 2 * FLOATS))


def _live_at_start(graph: Graph, kind: RegionKind, leaving: frozenset[int]) -> dict[int, set[int]]:
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
            if one.result is not None:
                written.add(one.result)
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


def _storing_loops(graph: Graph, kind: RegionKind) -> Mapping[int, frozenset[int]]:
    return graph.loops if kind.watched else {}


def _instructions(state: RegionState, block: GuestBlock, left: int) -> RegionContext | None:
    """Trace *block*; the context of its last instruction, None if control does not come there.

    *left*: instructions behind it for which the budget is taken already.
    """
    left += len(block.instructions)
    for index, one in enumerate(block.instructions):
        context = RegionContext(state, one, left - index)
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
            state.registers.number(register)
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
            target = (context.target & ~1).zext(I64)
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
        loops = _storing_loops(plan.graph, kind)
        if target in loops:
            state.registers.store(keep=loops[target], ordered=kind.flat)
        state.ir.Goto(plan.places[target])
    elif kind.flat or kind.machine or _same_page(target, block.last.pc):
        state.leave_to(target)
    else:
        state.leave_through_cache(Constant(I64, target))


def _same_page(one: int, other: int) -> bool:
    return (one ^ other) & -PAGE_SIZE == 0


# Cutting the object ----------------------------------------------------------------------

_EXTERNAL = {
    RelocationKind.PC_32: True,
    RelocationKind.PLT_32: True,
    RelocationKind.ABSOLUTE_32_SIGNED: False,
    RelocationKind.ABSOLUTE_32: False,
}


class _Cut(NamedTuple):
    """What is taken from an object."""

    code: bytes
    """With the constants behind it."""
    relocations: tuple[RegionRelocation, ...]
    marks: dict[int, list[int]]
    """Offsets of marked instructions, by mark."""
    functions: dict[str, tuple[tuple[int], int]]
    """Where the functions are, and their sizes."""


def _cut(object_bytes: bytes) -> _Cut:
    elf = ElfObject.parse(object_bytes)
    places: dict[int, int] = {}
    blob = bytearray()
    for executable in (True, False):
        for index, section in enumerate(elf.sections):
            flags = section.flags
            if not flags & SectionFlag.ALLOCATE or section.name.startswith((".eh_frame", MARKS)):
                continue
            if bool(flags & SectionFlag.EXECUTE) == executable and section.size:
                if flags & SectionFlag.WRITE:
                    raise NativeError(f"a region with data of its own ({section.name})")
                blob += bytes(align_up(len(blob), max(section.alignment, 1)) - len(blob))
                places[index] = len(blob)
                blob += section.data
    if len(blob) > _SIZE_LIMIT:
        raise Unfit(f"{len(blob)} bytes of code: the limit is {_SIZE_LIMIT}")
    entry = next(s for s in elf.symbols if s.name == _NAME)
    if places[entry.section] + entry.value:
        raise NativeError("a region must begin with its function")
    holes: list[RegionRelocation] = []
    for index, start in places.items():
        for one in elf.relocations.get(index, ()):
            offset = start + one.offset
            relative = _EXTERNAL.get(RelocationKind(one.kind))
            if relative is None:
                raise NativeError(f"a region with a relocation {one.kind_name}")
            if one.symbol.section == UNDEFINED:
                holes.append(RegionRelocation(offset, one.symbol.name, one.addend, relative))
            elif relative and one.symbol.section in places:
                value = places[one.symbol.section] + one.symbol.value + one.addend - offset
                struct.pack_into("<i", blob, offset, value)
            else:
                raise NativeError(f"a region with an address of its own ({one.kind_name})")
    functions = {
        one.name: ((places[one.section] + one.value,), one.size)
        for one in elf.symbols
        if one.name and one.section in places
    }
    return _Cut(bytes(blob), tuple(holes), _marks(elf, places), functions)


_ACCESS = re.compile(r"^.* (?:load|store|atomicrmw|cmpxchg)\b.* volatile .*$", re.MULTILINE)
_OF_ACCESS = re.compile(r", !pcsections !(\d+)")
_MARK = re.compile(rf'^!(\d+) = !\{{!"{re.escape(MARKS)}", !(\d+)\}}$', re.MULTILINE)
_NUMBER = re.compile(r"^!(\d+) = !\{i32 (\d+)\}$", re.MULTILINE)


def told_apart(llvm_ir: str, marks: Collection[int]) -> bool:
    """Whether each access that is left in *llvm_ir* has a mark of its own, and is in *marks*."""
    numbers = {found[1]: int(found[2]) for found in _NUMBER.finditer(llvm_ir)}
    names = {found[1]: numbers.get(found[2]) for found in _MARK.finditer(llvm_ir)}
    for access in _ACCESS.finditer(llvm_ir):
        found = _OF_ACCESS.search(access[0])
        number = names.get(found[1]) if found else None
        if number is None or (number != OWN_STORE and number not in marks):
            return False
    return True


def _marks(elf: ElfObject, places: Mapping[int, int]) -> dict[int, list[int]]:
    marks: dict[int, list[int]] = {}
    for index, section in enumerate(elf.sections):
        if section.name != MARKS:
            continue
        for one in elf.relocations.get(index, ()):
            (number,) = struct.unpack_from("<I", section.data, one.offset + 4)
            place = places[one.symbol.section] + one.symbol.value + one.addend
            marks.setdefault(number, []).append(place)
    return marks
