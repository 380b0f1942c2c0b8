"""Loops that know at their start how often they turn, as functions of their own.

A loop in a region looks at the budget as it turns and makes its accesses one by one, each
at a known host instruction. Where a loop is one block and what it compares is a register
that moves by a constant, and one that stays, the number of turns is known. So many of them
as the budget allows are made by a function in which nothing stands in LLVM's way: it
unrolls the loop and makes vectors of it. What is left, the last turn too, is the region's.

In a machine it also ends before an access leaves its page: the TLB is looked at once for all
turns. So each access must be through a register that moves by a constant, or stays.

The function takes the guest's registers from memory and puts them back there. RISC-V lets
accesses of one hart be seen in any order that dependencies, fences and the order at one
address allow (Unprivileged ISA, RVWMO): LLVM keeps those, since there is no fence inside.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tandemu.bits import Layout
from tandemu.ir import I64, PTR, Builder, Function, I, V, Value
from tandemu.ir.values import emit
from tandemu.isa.architecture import Isa
from tandemu.isa.instruction import Kind
from tandemu.jit.regions.context import RegionContext, RegionState, Registers
from tandemu.jit.regions.graph import GuestBlock, GuestInstruction
from tandemu.jit.regions.request import RegionKind
from tandemu.jit.regions.turns import Access, Count, Trace, Walk

_LONGEST = 64
"""Instructions of a loop; a longer one gains little."""
_ATTRIBUTES = '"frame-pointer"="none" "no-jump-tables"="true" "no-builtins"'


class CountedLoop(NamedTuple):
    """A loop's function: cpu, how many turns, and host addresses: where guest address 0 is,
    for a program, or where the registers in *pointers* point."""

    function: Function
    turns: Count
    pointers: tuple[int, ...]
    walks: tuple[Walk, ...]
    """What a machine looks up for its pointers; those of which there is none are not used."""
    read: frozenset[int]
    """Registers that it takes from memory: those that a turn reads before it writes them."""
    written: frozenset[int]
    """Registers that it puts there."""
    access: GuestInstruction | None
    """Its first access, to which those that the host refuses are put down."""


class _Leaves(Exception):
    """An instruction may have to leave the loop."""


class _LoopContext(RegionContext):
    """Traces an instruction that nobody interrupts."""

    def __init__(self, state: RegionState, one: GuestInstruction) -> None:
        super().__init__(state, one, 0)
        self._marks_loads = False

    def interpret(self) -> None:
        raise _Leaves

    def load(self, address: Value, bits: int) -> Value:
        return self.ir.load(self._place(address, bits // 8, None), I(bits))

    def load_vector(self, address: Value, bits: int) -> Value:
        return self.ir.load(self._place(address, bits // 8, None), V(bits))

    def store(self, address: Value, value: Value) -> None:
        self.ir.store(self._place(address, value.type.size, value), value)

    def _place(self, address: Value, size: int, stored: Value | None) -> Value:
        """The host address of a guest address, which is noted."""
        state = self._state
        assert isinstance(state, _LoopState)
        linear = state.trace.linear(address)
        if linear is not None and linear.narrow:
            linear = None
        state.trace.accesses.append(Access(linear, size, stored))
        begins = None if linear is None else state.begins.get(linear.register)
        if begins is not None:
            return begins.place.offset(address - begins.address)
        if not state.kind.flat:
            raise _Leaves
        return self.ir.base.offset(address)

    def fence(self) -> None:
        raise _Leaves


class _Begins(NamedTuple):
    """What a register's addresses are counted from: its value before the first turn."""

    address: Value
    place: Value
    """The host address of that, of which LLVM does not know that it is near others."""


class _LoopState(RegionState):
    """What the contexts of one loop share."""

    def __init__(
        self, b: Builder, layout: Layout, isa: Isa, kind: RegionKind, registers: Registers
    ) -> None:
        super().__init__(b, layout, isa, kind, registers, b.turns)
        self.begins: dict[int, _Begins] = {}
        self.trace = Trace(b.nodes, registers)

    def begin(self, pointers: Iterable[int]) -> None:
        """Note where the addresses of the registers in *pointers* begin.

        LLVM compares accesses of different beginnings when the loop begins; with one for all,
        it would have to prove that they do not meet, and steps that it does not know end that.
        """
        for register in pointers:
            address = self.registers.variables[register].value
            if self.kind.flat:
                place = emit("opaque", self.ir.base.offset(address).from_pointer()).to_pointer()
            else:
                place = getattr(self.ir, _place_name(register))
            self.begins[register] = _Begins(address, place)


def _place_name(register: int) -> str:
    return f"place{register}"


def find_counted(
    isa: Isa,
    kind: RegionKind,
    layout: Layout,
    block: GuestBlock,
    narrow: frozenset[int],
    name: str,
) -> CountedLoop | None:
    """The loop that *block* is by itself, if its turns can be counted; *narrow*: the registers
    that are where it begins."""
    if not _may_be_counted(isa, kind, block):
        return None
    read: set[int] = set()
    written: set[int] = set()
    for one in block.instructions:
        read.update(set(one.sources) - written)
        written.update(one.results)
    used = read | written
    narrow &= used
    sources = {register for one in block.instructions if one.accesses for register in one.sources}
    pointers = sorted(sources & set(range(isa.state.main.count)) - narrow)
    places = ["base"] if kind.flat else [_place_name(register) for register in pointers]
    parameters = [("cpu", PTR), ("turns", I64), *((place, PTR) for place in places)]
    b = Builder(name, parameters, attributes=_ATTRIBUTES)
    registers = Registers(b, layout, isa, used, narrow, lazy=True, pinned=())
    state = _LoopState(b, layout, isa, kind, registers)
    state.begin(pointers)
    left = b.variable(I64, b.turns)
    with b.Loop():
        registers.begin((), narrow)
        state.trace = trace = Trace(b.nodes, registers)
        try:
            context = _trace(state, block)
        except _Leaves:
            return None
        assert context.taken is not None
        count = trace.count(context.taken, written)
        walks = () if kind.flat else trace.walks(written)
        floating = {one for one in read & written if isa.state.file_of(one).floating}
        relaxed = not floating and trace.may_relax()
        registers.end(narrow)
        left.value = left.value - 1
        with b.If(left.value == 0):
            b.Break()
    if count is None or walks is None:
        return None
    registers.begin(written, narrow)
    registers.store()
    b.Return()
    function = b.finish()
    if any(one.record.floating for one in block.instructions):
        function.relaxed = relaxed
        function.attributes += "" if relaxed else " strictfp"
    access = next((one for one in block.instructions if one.accesses), None)
    return CountedLoop(
        function, count, tuple(pointers), walks, frozenset(read), frozenset(written), access
    )


def _may_be_counted(isa: Isa, kind: RegionKind, block: GuestBlock) -> bool:
    return (
        not kind.stores_first
        and isa.state.main.bits == I64.bits
        and len(block.instructions) <= _LONGEST
        and block.last.record.kind is Kind.BRANCH
        and block.last.target == block.pc
        and all(one.compilable and one.record.kind is not Kind.ATOMIC for one in block.instructions)
    )


def _trace(state: RegionState, block: GuestBlock) -> RegionContext:
    context: RegionContext
    context_class: type[_LoopContext] = state.isa.guest.bind(_LoopContext)
    for one in block.instructions:
        context = context_class(state, one)
        for register in one.sources:
            state.registers.unsettled(register)
        assert one.record.semantics is not None
        one.record.semantics(context)
    return context
