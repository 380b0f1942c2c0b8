"""What a loop of one block says of itself: how often it turns, where its accesses go.

A register is *linear* if it is what it was where the block began, and a constant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tandemu.ir import F32, F64, I32, I64, Builder, Constant, Value
from tandemu.ir.program import Do, Get, If, Node, Set, Variable
from tandemu.jit.memory.tlb import tlb_entry
from tandemu.jit.regions.context import Registers
from tandemu.jit.shared.layout import TLB_ENTRY
from tandemu.memory.layout import PAGE_SIZE

LEAST_TURNS = 16
"""Fewer are not worth the call."""
_LONGEST_STEP = 1 << 32


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


class Linear(NamedTuple):
    """A register as it was where the block begins, and a constant."""

    register: int
    offset: int
    narrow: bool


class Access(NamedTuple):
    """An access of the block: where, if that is known, how many bytes, and what is stored."""

    place: Linear | None
    size: int
    stored: Value | None

    def meets(self, other: Access, step: int) -> bool:
        """Whether both are known to touch a byte, in turns of which each moves by *step*."""
        one, two = self.place, other.place
        if one is None or two is None or one.register != two.register:
            return False
        if self is other:
            return step < self.size
        distance = (one.offset - two.offset) % step
        return distance < other.size or step - distance < self.size


class Trace:
    """What a block that is being traced says of its registers."""

    def __init__(self, nodes: list[Node], registers: Registers) -> None:
        """*nodes*: the block's, which may grow."""
        self._nodes, self._known = nodes, 0
        self._all: list[Node] = []
        self._made: dict[int, Do | Get] = {}
        self.accesses: list[Access] = []
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
            step = self._step(register) if register in written else Linear(register, 0, False)
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

    def _step(self, register: int) -> Linear | None:
        """What *register* is after a turn, if that is itself and a constant."""
        after = self._registers.values.get(register)
        moved = None if after is None else self._linear(after)
        if moved is None or moved.register != register:
            return None
        # With longer steps the least distance would be no number of 64 bits.
        return moved if 0 < abs(moved.offset) < _LONGEST_STEP else None

    def linear(self, value: Value) -> Linear | None:
        """What *value* is, if it is a register and a constant."""
        self._look()
        return self._linear(value)

    def _linear(self, value: Value) -> Linear | None:
        made = self._made.get(value.number)
        if isinstance(made, Get):
            register = self._variables.get(made.variable)
            narrow = value.type == I32
            return None if register is None else Linear(register, 0, narrow)
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


_ARITHMETIC = ("fadd", "fsub", "fmul", "fdiv", "fsqrt", "fma")
_RELAXED = (*_ARITHMETIC, "fuo", "float_pattern", "bitcast", "select", "load", "store")
_COMPARISONS = ("ne", "slt", "sle", "ult", "ule")
