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

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tandemu.bits import Layout
from tandemu.ir import F32, F64, I32, I64, PTR, Builder, Constant, Function, I, Value
from tandemu.ir.program import Do, Get, If, Node, Set, Variable
from tandemu.ir.values import emit
from tandemu.isa.instruction import Kind
from tandemu.jit.layout import PAGE_SIZE, TLB_ENTRY
from tandemu.jit.regions.context import RegionContext, RegionState, Registers
from tandemu.jit.regions.graph import FLOATS, GuestBlock, GuestInstruction
from tandemu.jit.regions.request import RegionKind
from tandemu.jit.tlb import tlb_entry

LEAST_TURNS = 16
"""Fewer are not worth the call."""
_LONGEST = 64
"""Instructions of a loop; a longer one gains little."""
_LONGEST_STEP = 1 << 32
_ATTRIBUTES = '"frame-pointer"="none" "no-jump-tables"="true" "no-builtins"'


class Count(NamedTuple):
    """How the number of turns follows from registers: *moving* + *offset* is compared with
    *bound*, and *moving* changes by *step* in each turn. What is compared is the sign
    extension of its lower half if *narrow*."""

    moving: int
    offset: int
    step: int
    bound: int | Constant
    comparison: str | None
    """An order that holds between them, the lesser first; None: they differ."""
    narrow: bool

    def distance(self, registers: Registers) -> tuple[Value, Value | None]:
        """How far it is to the bound, and what must hold besides that it is not negative."""
        first = registers.peek(self.moving) + self.offset
        bound = self.bound if isinstance(self.bound, Constant) else registers.peek(self.bound)
        low, high = (first, bound) if self.step > 0 else (bound, first)
        holds: Value | None = None
        if self.comparison is not None:
            holds = low.slt(high) if self.comparison.startswith("s") else low.ult(high)
        if self.narrow:
            for one in (first, bound):
                fits = one.trunc(I32).sext(I64) == one
                holds = fits if holds is None else holds & fits
        return high - low, holds


class Walk(NamedTuple):
    """A machine's accesses through one register: they touch bytes from its value + *lowest* up
    to its value + *end*, and it changes by *step* in each turn."""

    register: int
    lowest: int
    end: int
    step: int
    reads: bool
    writes: bool

    def look(self, ir: Builder, registers: Registers) -> tuple[Value, Value | None, Value]:
        """Look into the TLB: whether it allows the accesses of the first turn, all in one page;
        how many turns stay there, if not all; where the register points in the host."""
        value = registers.peek(self.register)
        first = value + self.lowest
        offset = first & (PAGE_SIZE - 1)
        entry, size = tlb_entry(ir, ir.tlb, first), self.end - self.lowest
        allowed = offset.ule(PAGE_SIZE - size)
        for wanted, field in ((self.reads, "read"), (self.writes, "write")):
            if wanted:
                page = ir.load(entry.offset(TLB_ENTRY.offset(field)), I64)
                allowed = allowed & (page == first - offset)
        turns: Value | None = None
        if self.step:
            room = (PAGE_SIZE - size) - offset if self.step > 0 else offset
            turns = room.udiv(abs(self.step)) + 1
        addend = ir.load(entry.offset(TLB_ENTRY.offset("addend")), I64)
        return allowed, turns, (value + addend).to_pointer()


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

    def store(self, address: Value, value: Value) -> None:
        self.ir.store(self._place(address, value.type.size, value), value)

    def _place(self, address: Value, size: int, stored: Value | None) -> Value:
        """The host address of a guest address, which is noted."""
        state = self._state
        assert isinstance(state, _LoopState)
        linear = state.trace.linear(address)
        if linear is not None and linear.narrow:
            linear = None
        state.trace.accesses.append(_Access(linear, size, stored))
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

    def __init__(self, b: Builder, layout: Layout, kind: RegionKind, registers: Registers) -> None:
        super().__init__(b, layout, kind, registers, b.turns)
        self.begins: dict[int, _Begins] = {}
        self.trace = _Trace(b.nodes, registers)

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
    kind: RegionKind, layout: Layout, block: GuestBlock, narrow: frozenset[int], name: str
) -> CountedLoop | None:
    """The loop that *block* is by itself, if its turns can be counted; *narrow*: the registers
    that are where it begins."""
    if not _may_be_counted(kind, block):
        return None
    read: set[int] = set()
    written: set[int] = set()
    for one in block.instructions:
        read.update(set(one.sources) - written)
        written.update(() if one.result is None else (one.result,))
    read.discard(0)
    used = read | written
    narrow &= used
    sources = {register for one in block.instructions if one.accesses for register in one.sources}
    pointers = sorted(sources & set(range(1, FLOATS)) - narrow)
    places = ["base"] if kind.flat else [_place_name(register) for register in pointers]
    parameters = [("cpu", PTR), ("turns", I64), *((place, PTR) for place in places)]
    b = Builder(name, parameters, attributes=_ATTRIBUTES)
    registers = Registers(b, layout, kind.xlen, used, narrow, lazy=True, pinned=())
    state = _LoopState(b, layout, kind, registers)
    state.begin(pointers)
    left = b.variable(I64, b.turns)
    with b.Loop():
        registers.begin((), narrow)
        state.trace = trace = _Trace(b.nodes, registers)
        try:
            context = _trace(state, block)
        except _Leaves:
            return None
        assert context.taken is not None
        count = trace.count(context.taken, written)
        walks = () if kind.flat else trace.walks(written)
        relaxed = not read & written & _FLOATING and trace.may_relax()
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


def _may_be_counted(kind: RegionKind, block: GuestBlock) -> bool:
    return (
        not kind.stores_first
        and kind.xlen == I64.bits
        and len(block.instructions) <= _LONGEST
        and block.last.record.kind is Kind.BRANCH
        and block.last.target == block.pc
        and all(one.compilable and one.record.kind is not Kind.ATOMIC for one in block.instructions)
    )


def _trace(state: RegionState, block: GuestBlock) -> RegionContext:
    context: RegionContext
    for one in block.instructions:
        context = _LoopContext(state, one)
        for register in one.sources:
            state.registers.number(register)
        assert one.record.semantics is not None
        one.record.semantics(context)
    return context


class _Linear(NamedTuple):
    """A register as it was where the block begins, and a constant."""

    register: int
    offset: int
    narrow: bool


class _Access(NamedTuple):
    """An access of the block: where, if that is known, how many bytes, and what is stored."""

    place: _Linear | None
    size: int
    stored: Value | None

    def meets(self, other: _Access, step: int) -> bool:
        """Whether both are known to touch a byte, in turns of which each moves by *step*."""
        one, two = self.place, other.place
        if one is None or two is None or one.register != two.register:
            return False
        if self is other:
            return step < self.size
        distance = (one.offset - two.offset) % step
        return distance < other.size or step - distance < self.size


class _Trace:
    """What a block that is being traced says of its registers."""

    def __init__(self, nodes: list[Node], registers: Registers) -> None:
        """*nodes*: the block's, which may grow."""
        self._nodes, self._known = nodes, 0
        self._all: list[Node] = []
        self._made: dict[int, Do | Get] = {}
        self.accesses: list[_Access] = []
        self._registers = registers
        self._variables = {
            local.variable: register
            for locals in (registers.variables, registers.narrow_variables)
            for register, local in locals.items()
        }

    def _look(self) -> None:
        """Take in what has been added."""
        for node in _flat(self._nodes[self._known :]):
            self._all.append(node)
            if isinstance(node, (Do, Get)) and node.result is not None:
                self._made[node.result.number] = node
        self._known = len(self._nodes)

    def may_relax(self) -> bool:
        """Whether LLVM's ordinary operations on doubles raise the flags that strict ones do.

        They do if the result of each comes into memory in its turn, so that none is left out,
        and if nothing is known of the operands. (Singles are made in vectors with lanes that
        are nobody's.) A store may be left out itself if another one, of this turn or a later
        one, is known to write over it.
        """
        self._look()
        kept = self._stored()
        for node in self._all:
            if not isinstance(node, Do):
                continue
            types = {one.type for one in (*node.operands, node.result) if one is not None}
            if F32 in types or (F64 in types and node.operation.name not in _RELAXED):
                return False
            if node.operation.name in _ARITHMETIC:
                known = any(isinstance(one, Constant) for one in node.operands)
                assert node.result is not None
                if known or node.result.number not in kept:
                    return False
        return True

    def _stored(self) -> set[int]:
        """The numbers of the values from which those follow that come into memory."""
        sets: dict[Variable, list[Value]] = {}
        for node in self._all:
            if isinstance(node, Set):
                sets.setdefault(node.variable, []).append(node.value)
        kept: set[int] = set()
        stores = [one for one in self.accesses if one.stored is not None]
        pending: list[Value] = []
        for one in stores:
            step = None if one.place is None else self._step(one.place.register)
            if step is None or one.stored is None:
                continue
            if not any(one.meets(other, abs(step.offset)) for other in stores):
                pending.append(one.stored)
        while pending:
            value = pending.pop()
            if value.number in kept:
                continue
            kept.add(value.number)
            match self._made.get(value.number):
                case Do(operands=operands):
                    pending += operands
                case Get(variable=variable):
                    pending += sets.get(variable, [])
        return kept

    def walks(self, written: set[int]) -> tuple[Walk, ...] | None:
        """What becomes of the accesses, if *written* are the registers that change; None if it
        is not known, or if few turns stay in a page."""
        found: dict[int, Walk] = {}
        for one in self.accesses:
            if one.place is None:
                return None
            register, offset = one.place.register, one.place.offset
            step = self._step(register) if register in written else _Linear(register, 0, False)
            if step is None or step.narrow or abs(step.offset) * 2 * LEAST_TURNS > PAGE_SIZE:
                return None
            reads, writes = one.stored is None, one.stored is not None
            here = Walk(register, offset, offset + one.size, step.offset, reads, writes)
            before = found.get(register, here)
            found[register] = Walk(
                register,
                min(before.lowest, here.lowest),
                max(before.end, here.end),
                step.offset,
                before.reads or reads,
                before.writes or writes,
            )
        walks = tuple(found.values())
        return None if any(one.end - one.lowest > PAGE_SIZE // 2 for one in walks) else walks

    def count(self, taken: Value, written: set[int]) -> Count | None:
        """How often *taken* holds in a row, if *written* are the registers that change."""
        self._look()
        made = self._made.get(taken.number)
        if not isinstance(made, Do) or made.operation.name not in _COMPARISONS:
            return None
        name = made.operation.name
        left, right = made.operands
        for moving, other, below in ((left, right, True), (right, left, False)):
            count = self._count(moving, other, written)
            if count is not None and name == "ne":
                return count
            # What moves must come nearer to what it has to stay below, or above.
            if count is not None and (count.step > 0) == below:
                return count._replace(comparison=name)
        return None

    def _count(self, moving: Value, other: Value, written: set[int]) -> Count | None:
        linear = self._linear(moving)
        if linear is None or linear.register not in written:
            return None
        moved = self._step(linear.register)
        if moved is None:
            return None
        narrow = linear.narrow or moved.narrow
        bound: int | Constant
        if isinstance(other, Constant):
            bound = other
        else:
            fixed = self._linear(other)
            if fixed is None or fixed.offset or fixed.register in written:
                return None
            bound, narrow = fixed.register, narrow or fixed.narrow
        return Count(linear.register, linear.offset, moved.offset, bound, None, narrow)

    def _step(self, register: int) -> _Linear | None:
        """What *register* is after a turn, if that is itself and a constant."""
        after = self._registers.values.get(register)
        moved = None if after is None else self._linear(after)
        if moved is None or moved.register != register:
            return None
        # With longer steps the least distance would be no number of 64 bits.
        return moved if 0 < abs(moved.offset) < _LONGEST_STEP else None

    def linear(self, value: Value) -> _Linear | None:
        """What *value* is, if it is a register and a constant."""
        self._look()
        return self._linear(value)

    def _linear(self, value: Value) -> _Linear | None:
        made = self._made.get(value.number)
        if isinstance(made, Get):
            register = self._variables.get(made.variable)
            narrow = value.type == I32
            return None if register is None else _Linear(register, 0, narrow)
        if not isinstance(made, Do):
            return None
        name = made.operation.name
        inner = self._linear(made.operands[0]) if made.operands else None
        if inner is None:
            return None
        if name == "trunc" and value.type == I32:
            return inner._replace(narrow=True)
        if name == "sext" and made.operands[0].type == I32:
            return inner
        step = made.operands[1] if len(made.operands) == 2 else None
        wrapped = inner.narrow and value.type != I32
        if name in ("add", "sub") and isinstance(step, Constant) and not wrapped:
            change = step.signed if name == "add" else -step.signed
            return inner._replace(offset=inner.offset + change)
        return None


def _flat(nodes: Iterable[Node]) -> Iterator[Node]:
    """*nodes* with those inside of them."""
    for node in nodes:
        yield node
        if isinstance(node, If):
            yield from _flat(node.then)
            yield from _flat(node.otherwise)


_FLOATING = frozenset(range(FLOATS, 2 * FLOATS))
_ARITHMETIC = ("fadd", "fsub", "fmul", "fdiv", "fsqrt", "fma")
_RELAXED = (*_ARITHMETIC, "fuo", "float_pattern", "bitcast", "select", "load", "store")
_COMPARISONS = ("ne", "slt", "sle", "ult", "ule")
