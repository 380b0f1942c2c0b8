"""Finding a region: the blocks that direct branches reach from an entry.

Breadth first, so that what is near the entry is in when the limit is reached. A call is
followed if the whole function is small, or in the region already: a return then goes on
inside if the address is that of a call in here. Other functions, if they are hot, have
regions of their own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from typing import NamedTuple

from tandemu.isa.architecture import Isa
from tandemu.isa.guest import RESULTS, SOURCES
from tandemu.isa.instruction import Instruction, Kind, Trait
from tandemu.isa.tracing import TracedOperands, trace_operands
from tandemu.jit.regions.request import HOT, VERY_HOT, RegionKind
from tandemu.jit.shared.layout import BLOCK_INSTRUCTIONS
from tandemu.memory.layout import PAGE_SIZE

INSTRUCTION_LIMITS = {HOT: 240, VERY_HOT: 800}
"""Guest instructions in a region, by level."""
_SMALL = 64
"""Instructions of a function, with all that it calls, that is taken in where it is called."""
_LONGEST_BLOCK = BLOCK_INSTRUCTIONS


class GuestInstruction(NamedTuple):
    """One decoded instruction at guest address *pc*."""

    isa: Isa
    pc: int
    length: int
    record: Instruction
    word: int
    form: int
    operands: Mapping[str, int]
    compilable: bool
    """Whether it can be part of a region; if not, the interpreter carries it out."""

    @property
    def next_pc(self) -> int:
        return self.pc + self.length

    @property
    def target(self) -> int:
        """Where a branch or jump goes."""
        origin = self.next_pc if self.isa.guest.relative_to_end else self.pc
        return origin + self.operands["imm"]

    @property
    def is_call(self) -> bool:
        """Whether it jumps to a known function."""
        return self.isa.guest.is_call(self.record, self.operands)

    @property
    def is_return(self) -> bool:
        """Whether it goes back to where a call came from."""
        return self.isa.guest.is_return(self.record, self.operands)

    @property
    def links(self) -> bool:
        """Whether it is a jump that keeps where it came from."""
        return bool(self._registers(RESULTS))

    @property
    def accesses(self) -> bool:
        return self.record.kind in (Kind.LOAD, Kind.STORE, Kind.ATOMIC) or self.record.access > 0

    @property
    def sources(self) -> tuple[int, ...]:
        """The registers it reads, those of all files counted together (`State.first`)."""
        traced = self._traced
        if traced is None:
            return self._registers(SOURCES)
        return self._registers(traced.read, traced.registers_read)

    @property
    def results(self) -> tuple[int, ...]:
        """The registers it writes, numbered likewise."""
        traced = self._traced
        if traced is None:
            return self._registers(RESULTS)
        return self._registers(traced.written, traced.registers_written)

    def reads(self, operand: str) -> bool:
        """Whether it reads the register that *operand* names."""
        traced = self._traced
        return operand in SOURCES if traced is None else operand in traced.read

    @property
    def _traced(self) -> TracedOperands | None:
        known = self.record.semantics is not None and self.record.kind is not Kind.SYSTEM
        return trace_operands(self.isa, self.record) if known else None

    def _registers(
        self, operands: Collection[str], hidden: Collection[tuple[str, int]] = ()
    ) -> tuple[int, ...]:
        state, record = self.isa.state, self.record
        named = [
            (file, self.operands[name])
            for name in (*SOURCES, *RESULTS)
            if name in operands and (file := record.file(name)) is not None
        ]
        numbers = (state.number(*one) for one in (*named, *sorted(hidden)))
        return tuple(dict.fromkeys(number for number in numbers if number is not None))


class GuestBlock:
    """Instructions that run one after another from guest address *pc* on."""

    def __init__(self, pc: int) -> None:
        self.pc = pc
        self.instructions: list[GuestInstruction] = []
        self.following: int | None = None
        """Where control goes on if the last instruction does not say."""
        self.followed = False
        """Whether its call is one inside the region."""
        self.returns: tuple[int, ...] = ()
        """Where its return may go inside the region: after the calls that lead to it."""

    @property
    def last(self) -> GuestInstruction:
        return self.instructions[-1]

    @property
    def successors(self) -> tuple[int, ...]:
        """Guest addresses that control may come to directly, inside the region or not."""
        last = self.last
        if not last.compilable:
            return ()
        if last.record.kind is Kind.INDIRECT:
            return self.returns
        if last.record.kind is Kind.BRANCH:
            return (last.next_pc, last.target)
        if last.record.kind is Kind.JUMP:
            return (last.target,) if self.followed or not last.links else ()
        return () if self.following is None else (self.following,)


class Graph(NamedTuple):
    """The blocks of a region by address, the entry's first."""

    entry: int
    blocks: dict[int, GuestBlock]
    loops: Mapping[int, frozenset[int]]
    """For each block that closes cycles, the registers written in the innermost of them."""

    @property
    def instructions(self) -> int:
        return sum(len(block.instructions) for block in self.blocks.values())

    def extents(self) -> list[tuple[int, int]]:
        """The guest addresses covered, as (start, end), merged and in order."""
        merged: list[tuple[int, int]] = []
        spans = sorted((b.pc, b.last.next_pc) for b in self.blocks.values())
        for start, end in spans:
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        return merged


class _Code:
    """Guest code in pages."""

    def __init__(self, isa: Isa, pages: Mapping[int, bytes], entry: int, kind: RegionKind) -> None:
        self.isa, self.pages, self.flat = isa, pages, kind.flat
        # Elsewhere translations of other pages may change.
        self.entry_page = None if kind.flat else entry & -PAGE_SIZE

    def reaches(self, address: int) -> bool:
        """Whether a region may go on at *address*."""
        page = address & -PAGE_SIZE
        return page == self.entry_page if self.entry_page is not None else page in self.pages

    def bytes_at(self, pc: int) -> bytes:
        """As many bytes as an instruction at *pc* may have, of the pages that a region reaches."""
        found = b""
        longest = self.isa.state.longest
        while len(found) < longest:
            address = pc + len(found)
            page = self.pages.get(address & -PAGE_SIZE)
            # An instruction that crosses pages is not in a region of one page.
            if page is None or not self.reaches(address):
                break
            offset = address & (PAGE_SIZE - 1)
            found += page[offset : offset + longest - len(found)]
        return found

    def decode(self, pc: int) -> GuestInstruction | None:
        decoded = self.isa.guest.decode(self.bytes_at(pc))
        if decoded is None:
            return None
        record = decoded.instruction
        compilable = record.semantics is not None and record.kind is not Kind.SYSTEM
        if self.flat and record.kind is Kind.ATOMIC:
            # The others become loops, with loads that the host may refuse unmarked.
            compilable = Trait.HOST_ATOMIC in record.traits
        operands = decoded.operands
        rounding = self.isa.guest.rounding
        if rounding is not None and rounding.field in operands:
            # In other modes the evaluator rounds.
            compilable = compilable and operands[rounding.field] in rounding.host
        return GuestInstruction(
            *(self.isa, pc, decoded.length, record, decoded.word, decoded.form, operands),
            compilable,
        )


class _Discovery:
    """What is reached from an entry, and how."""

    def __init__(self, code: _Code, entry: int, within: frozenset[int] = frozenset()) -> None:
        """*within*: functions that are being looked at, whose calls led here."""
        self._code, self._entry, self._within = code, entry, within | {entry}
        self.found: dict[int, GuestInstruction] = {}
        self.leaders = {entry}
        """Addresses where blocks begin."""
        self.calls: dict[int, int] = {}
        """The calls that are followed: address of the instruction, and of the function."""
        self._large: set[int] = set()
        self.complete = True
        """Whether nothing is missing, and nothing that is called."""

    def explore(self, limit: int) -> None:
        """Find at most *limit* instructions from the entry on."""
        found = self.found
        pending = deque([self._entry])
        while pending:
            pc = pending.popleft()
            run = 0
            while pc not in found and len(found) < limit and run < _LONGEST_BLOCK:
                one = self._code.decode(pc)
                if one is None:
                    self.complete = False
                    break
                found[pc] = one
                run += 1
                if not one.compilable or one.record.kind is Kind.INDIRECT:
                    break
                if one.record.kind in (Kind.BRANCH, Kind.JUMP):
                    targets = self._targets(one)
                    self.leaders.update(targets)
                    pending.extend(t for t in targets if t not in found)
                    break
                pc = one.next_pc
            else:
                self.leaders.add(pc)
                if pc not in found:
                    # A long block goes on as another one.
                    if len(found) < limit:
                        pending.appendleft(pc)
                    else:
                        self.complete = False

    def _targets(self, one: GuestInstruction) -> tuple[int, ...]:
        if one.record.kind is Kind.BRANCH:
            # What falls through is likelier: it is looked at first.
            return one.next_pc, one.target
        if not one.links:
            return (one.target,)
        if one.is_call and self._takes_in(one.target):
            self.calls[one.pc] = one.target
            return one.target, one.next_pc
        self.complete = False
        return ()

    def _takes_in(self, function: int) -> bool:
        """Whether calls of *function* are followed; finds it."""
        if function in self.leaders:
            return True
        if function in self._within or function in self._large:
            return False
        inner = _Discovery(self._code, function, self._within)
        inner.explore(_SMALL)
        if not inner.complete:
            self._large.add(function)
            return False
        self.found |= inner.found
        self.leaders |= inner.leaders
        self.calls |= inner.calls
        return True


def find_graph(
    isa: Isa, pages: Mapping[int, bytes], entry: int, kind: RegionKind, level: int
) -> Graph | None:
    """The region at *entry*; None if its first instruction cannot be in one."""
    discovery = _Discovery(_Code(isa, pages, entry, kind), entry)
    discovery.explore(INSTRUCTION_LIMITS[level])
    found = discovery.found
    if entry not in found or not found[entry].compilable:
        return None
    blocks = _blocks(found, discovery.leaders)
    _connect_calls(blocks, discovery.calls)
    return Graph(entry, blocks, _loops(blocks, entry))


def _connect_calls(blocks: dict[int, GuestBlock], calls: Mapping[int, int]) -> None:
    """Let the blocks of followed calls and of the returns from them know each other."""
    after: dict[int, list[int]] = {}
    for block in blocks.values():
        function = calls.get(block.last.pc)
        if function in blocks:
            block.followed = True
            if block.last.next_pc in blocks:
                after.setdefault(function, []).append(block.last.next_pc)
    for function, places in after.items():
        for pc in _body(blocks, function):
            if blocks[pc].last.is_return:
                known = blocks[pc].returns
                blocks[pc].returns = known + tuple(p for p in places if p not in known)


def _body(blocks: dict[int, GuestBlock], function: int) -> set[int]:
    """The blocks of the function that begins there: where it calls, it goes on afterwards."""
    body: set[int] = set()
    pending = [function]
    while pending:
        pc = pending.pop()
        if pc in blocks and pc not in body:
            body.add(pc)
            block = blocks[pc]
            if block.followed:
                pending.append(block.last.next_pc)
            elif block.last.record.kind is not Kind.INDIRECT:
                pending.extend(block.successors)
    return body


def _blocks(found: dict[int, GuestInstruction], leaders: set[int]) -> dict[int, GuestBlock]:
    blocks: dict[int, GuestBlock] = {}
    # In the order of discovery, the entry first.
    for start in [pc for pc in found if pc in leaders]:
        block, pc = GuestBlock(start), start
        while pc in found:
            one = found[pc]
            block.instructions.append(one)
            pc = one.next_pc
            ends = one.record.kind in (Kind.BRANCH, Kind.JUMP, Kind.INDIRECT)
            if ends or not one.compilable:
                break
            if pc in leaders or pc not in found:
                block.following = pc
                break
        blocks[block.pc] = block
    return blocks


def _back_edges(blocks: dict[int, GuestBlock], entry: int) -> frozenset[tuple[int, int]]:
    """Edges that go back in a depth-first walk."""
    edges: set[tuple[int, int]] = set()
    open_: set[int] = set()
    seen: set[int] = {entry}
    stack: list[tuple[int, list[int]]] = [(entry, list(blocks[entry].successors))]
    open_.add(entry)
    while stack:
        pc, left = stack[-1]
        if not left:
            stack.pop()
            open_.discard(pc)
            continue
        target = left.pop()
        if target not in blocks:
            continue
        if target in open_:
            edges.add((pc, target))
        elif target not in seen:
            seen.add(target)
            open_.add(target)
            stack.append((target, list(blocks[target].successors)))
    return frozenset(edges)


def _loops(blocks: dict[int, GuestBlock], entry: int) -> dict[int, frozenset[int]]:
    before: dict[int, list[int]] = {pc: [] for pc in blocks}
    for block in blocks.values():
        for target in block.successors:
            if target in blocks:
                before[target].append(block.pc)
    bodies: dict[int, set[int]] = {}
    for end, head in _back_edges(blocks, entry):
        # All from which the edge is reached without passing the head.
        body = {head, end}
        pending = [end] if end != head else []
        while pending:
            for pc in before[pending.pop()]:
                if pc not in body:
                    body.add(pc)
                    pending.append(pc)
        if head not in bodies or len(body) < len(bodies[head]):
            bodies[head] = body
    return {
        head: frozenset(
            result for pc in body for one in blocks[pc].instructions for result in one.results
        )
        for head, body in bodies.items()
    }
