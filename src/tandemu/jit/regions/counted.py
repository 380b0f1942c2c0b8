"""Loops that know at their start how often they turn, as functions of their own.

A loop in a region looks at the budget as it turns and makes its accesses one by one, each
at a known host instruction. Where a loop is one block and what it compares is a register
that moves by a constant, and one that stays, the number of turns is known. So many of them
as the budget allows are made by a function in which nothing stands in LLVM's way: it
unrolls the loop and makes vectors of it. What is left, the last turn too, is the region's.

The function takes the guest's registers from memory and puts them back there. RISC-V lets
accesses of one hart be seen in any order that dependencies, fences and the order at one
address allow (Unprivileged ISA, RVWMO): LLVM keeps those, since there is no fence inside.
"""

from __future__ import annotations

from typing import NamedTuple

from tandemu.bits import Layout
from tandemu.ir import I32, I64, PTR, Builder, Constant, Function, I, Value
from tandemu.ir.program import Do, Get, Node
from tandemu.isa.instruction import Kind
from tandemu.jit.regions.context import RegionContext, RegionState, Registers
from tandemu.jit.regions.graph import GuestBlock, GuestInstruction
from tandemu.jit.regions.request import RegionKind

LEAST_TURNS = 16
"""Fewer are not worth the call."""
_LONGEST = 64
"""Instructions of a loop; a longer one gains little."""
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


class CountedLoop(NamedTuple):
    """A loop's function: cpu, the host address of guest address 0, and how many turns."""

    function: Function
    turns: Count
    read: frozenset[int]
    """Registers that it takes from memory."""
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
        return self.ir.load(self.ir.base.offset(address.zext(I64)), I(bits))

    def store(self, address: Value, value: Value) -> None:
        self.ir.store(self.ir.base.offset(address.zext(I64)), value)

    def fence(self) -> None:
        raise _Leaves


def find_counted(
    kind: RegionKind, layout: Layout, block: GuestBlock, narrow: frozenset[int], name: str
) -> CountedLoop | None:
    """The loop that *block* is by itself, if its turns can be counted; *narrow*: the registers
    that are where it begins."""
    if not _may_be_counted(kind, block):
        return None
    read = {register for one in block.instructions for register in one.sources} - {0}
    written = {one.result for one in block.instructions if one.result is not None}
    floating = any(one.record.floating for one in block.instructions)
    b = Builder(
        name,
        [("cpu", PTR), ("base", PTR), ("turns", I64)],
        attributes=_ATTRIBUTES + (" strictfp" if floating else ""),
    )
    used = read | written
    narrow &= used
    registers = Registers(b, layout, kind.xlen, used, narrow, lazy=True, pinned=())
    state = RegionState(b, layout, kind, registers, b.turns)
    left = b.variable(I64, b.turns)
    with b.Loop():
        registers.begin((), narrow)
        nodes = b.nodes
        try:
            context = _trace(state, block)
        except _Leaves:
            return None
        assert context.taken is not None
        count = _Trace(nodes, registers).count(context.taken, written)
        registers.end(narrow)
        left.value = left.value - 1
        with b.If(left.value == 0):
            b.Break()
    if count is None:
        return None
    registers.begin(written, narrow)
    registers.store()
    b.Return()
    access = next((one for one in block.instructions if one.accesses), None)
    return CountedLoop(b.finish(), count, frozenset(read), frozenset(written), access)


def _may_be_counted(kind: RegionKind, block: GuestBlock) -> bool:
    return (
        kind.flat
        and not kind.stores_first
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


class _Trace:
    """What a traced block says of its registers."""

    def __init__(self, nodes: list[Node], registers: Registers) -> None:
        self._made = {
            node.result.number: node
            for node in nodes
            if isinstance(node, (Do, Get)) and node.result is not None
        }
        self._registers = registers
        self._variables = {
            local.variable: register
            for locals in (registers.variables, registers.narrow_variables)
            for register, local in locals.items()
        }

    def count(self, taken: Value, written: set[int]) -> Count | None:
        """How often *taken* holds in a row, if *written* are the registers that change."""
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
        after = self._registers.values.get(linear.register)
        moved = None if after is None else self._linear(after)
        if moved is None or moved.register != linear.register or not moved.offset:
            return None
        bound: int | Constant
        if isinstance(other, Constant):
            bound = other
        else:
            fixed = self._linear(other)
            if fixed is None or fixed.offset or fixed.register in written:
                return None
            bound = fixed.register
        narrow = linear.narrow or moved.narrow
        return Count(linear.register, linear.offset, moved.offset, bound, None, narrow)

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


_COMPARISONS = ("ne", "slt", "sle", "ult", "ule")
