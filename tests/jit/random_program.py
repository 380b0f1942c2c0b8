"""Random programs of several blocks that branch, loop, call, fault and rewrite themselves.

A program is described by a value that hypothesis can draw and shrink: blocks, each with a
shape and a seed for what is in it. All blocks take fuel, and without fuel the program ends.
Some instructions are slots: other blocks write new words over them and fence. They lie at
the heads of blocks, in the middle, and across ends of pages; what is written is one
instruction or two short ones, straight, a jump, a branch, or nothing that exists.

Faults go to a handler of machine mode, which notes cause, address, value and the number of
instructions retired, and goes on behind the instruction; interrupts do too, and what they
find on their way out may be an instruction that the handler has changed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, auto
from typing import Any, Protocol

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from tandemu.isa.riscv import state as riscv
from tests.jit.page_tables import RWX, A, D, PageTable, R, U, V, W
from tests.jit.random_code import ADDRESS, MEMORY, MIDDLE, STRAIGHT, candidates, random_operands
from tests.jit.small_machine import (
    BASE,
    DATA,
    END,
    PAGE,
    SIZE,
    Code,
    SmallMachine,
    encode,
    random_float,
    random_value,
)
from tests.long import LONG

CODE_PAGES = 16
VIRTUAL = 0x20_0000_0000
"""Where `BASE` is seen below machine mode."""
ALIAS = 0x20_0000
"""So far above it, the code may be written once more."""
HANDLER = BASE + 0x40000
SLOTS = DATA + 2 * PAGE
"""The table of what is written where, one `SLOT_ENTRY` each."""
SLOT_ENTRY = 32
WALK = DATA + 4 * PAGE
"""A page with nothing behind it, below machine mode."""
READ_ONLY = DATA + 6 * PAGE
MARKED = DATA + 8 * PAGE
"""Address and word of the instruction that the handler changes."""
LOG = MARKED + 64
LOG_SIZE = 1 << 16
NOWHERE = 0x2000_0000
"""No RAM: an exit, answered with a bus error."""
DEVICE = END + 0x800

GENERAL = (0, 2, 9, 10, 14, 15)
"""What `random_code.REGISTERS` become: those that regions hand on, and what is near."""
LINK, MARK, SHORT_BASE, WORD, PLACE, FAULTY, TABLE = 1, 7, 8, 12, 16, 18, 19
CAUSE, HANDLER_PC, LOG_POINTER, SCRATCH = 21, 22, 23, 24
HANDLERS = (CAUSE, HANDLER_PC, LOG_POINTER, SCRATCH)
"""Registers that only the handler uses."""
WALKER, TURNS, TARGET, FUEL = 25, 26, 27, 29
BRANCHES = ("beq", "bne", "blt", "bge", "bltu", "bgeu")
SOFTWARE_INTERRUPT, TIMER_INTERRUPT = 1, 5
"""Supervisor's interrupts, taken by machine mode, where the handler can end them."""
PENDING = riscv.SSIP | riscv.STIP


class Shape(IntEnum):
    """What a block does after its straight line."""

    FALL = auto()
    BRANCH = auto()
    JUMP = auto()
    COMPUTED = auto()
    CALL = auto()
    LOOP = auto()
    RESERVE = auto()
    DEVICE = auto()
    WALK = auto()
    FAULT = auto()
    REWRITE = auto()


@dataclass(frozen=True)
class Block:
    """One block of a program."""

    shape: Shape
    seed: int
    length: int
    """Instructions of its straight line."""
    target: int
    """The block or the slot that it is about."""
    slot: bool
    """Whether it begins with a slot."""
    inner: bool
    """Whether there is a slot behind the straight line."""
    before_end: int
    """Halves of an instruction between its beginning and the end of a page; 0: anywhere."""


@dataclass(frozen=True)
class Description:
    """A program."""

    xlen: int
    privilege: int
    blocks: tuple[Block, ...]
    fuel: int
    """Blocks that run."""
    turns: int
    """The most turns of an inner loop."""
    rounding: int
    """The rounding mode; 4 is not the host's."""
    seed: int

    @property
    def base(self) -> int:
        """Where the program sees `BASE`."""
        return BASE if self.privilege == riscv.MACHINE else VIRTUAL


def examples(count: int, long: int) -> settings:
    """Settings for *count* examples, the same every time, or *long* new ones (`tests.long`)."""
    return settings(
        max_examples=long if LONG else count,
        derandomize=not LONG,
        # Making an example smaller takes minutes.
        phases=tuple(Phase) if LONG else (Phase.generate,),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


# Not `integers`: those are also numbers that happen to stand in modules that are loaded.
SEEDS = range(1 << 20)

EVERYWHERE = (
    (64, riscv.MACHINE),
    (32, riscv.MACHINE),
    (64, riscv.SUPERVISOR),
    (64, riscv.USER),
)
"""Widths of registers and privileges that machines run programs with."""


def _blocks(shapes: Sequence[Shape]) -> st.SearchStrategy[Block]:
    # What is about changing code and about loops is not rare.
    often = [*shapes, Shape.LOOP, Shape.REWRITE]
    return st.builds(
        Block,
        shape=st.sampled_from(often),
        seed=st.sampled_from(SEEDS),
        length=st.sampled_from(range(8)),
        target=st.sampled_from(range(64)),
        slot=st.booleans(),
        inner=st.booleans(),
        before_end=st.sampled_from((*[0] * 24, *range(1, 25))),
    )


def descriptions(
    kinds: Sequence[tuple[int, int]] = EVERYWHERE,
    *,
    fuel: int,
    turns: int,
    shapes: Sequence[Shape] = tuple(Shape),
    roundings: Sequence[int] = range(5),
) -> st.SearchStrategy[Description]:
    """Programs of some blocks of which at most *fuel* run.

    *kinds*: widths of registers and privileges; *turns*: the most that an inner loop has.
    """
    return st.builds(
        lambda kind, blocks, *rest: Description(*kind, tuple(blocks), *rest),
        st.sampled_from(kinds),
        st.lists(_blocks(shapes), min_size=6, max_size=12),
        st.sampled_from(range(fuel // 2, fuel + 1)),
        st.just(turns),
        st.sampled_from(roundings),
        st.sampled_from(SEEDS),
    )


@dataclass
class _Slot:
    address: int
    word: int
    inner: bool


class GuestMemory(Protocol):
    """Memory that a program is put into, by physical address."""

    def write(self, address: int, data: bytes) -> None: ...


class RandomProgram:
    """What a description stands for: bytes in memory, and how to begin."""

    def __init__(self, description: Description) -> None:
        self.description = description
        self._slots: list[_Slot] = []
        self._writers: list[int] = []
        """The slots that are written, by number of the writer."""
        self._marked: tuple[int, int] | None = None
        """Address and word of an instruction that the handler may change."""
        self._xlen = description.xlen
        self._paged = description.privilege != riscv.MACHINE
        self._shift = description.base - BASE
        pool = candidates(self._xlen, STRAIGHT | MEMORY)
        # Memory more often: of the records there are few.
        self._pool = pool + candidates(self._xlen, MEMORY) * 2
        self._word = ("ld", "sd") if self._xlen == 64 else ("lw", "sw")
        self._make()

    # Making ------------------------------------------------------------------------------

    def _make(self) -> None:
        code = Code(self.description.base, self._xlen)
        count = len(self.description.blocks)
        for number, block in enumerate(self.description.blocks):
            chance = random.Random(block.seed)
            if block.before_end:
                code("jal", to=f"p{number}", rd=0)
                code.align(PAGE, PAGE - 2 * block.before_end).label(f"p{number}")
            code.label(f"b{number}")
            if block.slot:
                self._slot(code, chance, inner=False)
            code("addi", rd=FUEL, rs1=FUEL, imm=-1)
            code("bge", to=f"m{number}", rs1=FUEL, rs2=0)
            code("jal", to="end", rd=0).label(f"m{number}")
            self._straight(code, chance, block.length)
            if block.inner:
                self._slot(code, chance, inner=True)
            self._shape(code, chance, number, block, block.target % count)
        # Whoever comes to the end begins anew, as long as there is fuel.
        code("jal", to="b0", rd=0).label("end").finish()
        self.code = code.build()
        assert len(self.code) <= CODE_PAGES * PAGE
        self._fill_table(code)

    def _straight(self, code: Code, chance: random.Random, count: int) -> None:
        for _ in range(count):
            if chance.randrange(4) == 0:
                short(code, chance)
            else:
                self._instruction(code, chance)

    def _instruction(self, code: Code, chance: random.Random) -> None:
        one = chance.choice(self._pool)
        operands = random_operands(chance, one)
        for place in one.fields:
            if place.file == "x" and operands[place.name] < len(GENERAL):
                operands[place.name] = GENERAL[operands[place.name]]
        code(one.name, **operands)

    def _general(self, chance: random.Random) -> int:
        return GENERAL[chance.randrange(1, len(GENERAL))]

    def _slot(self, code: Code, chance: random.Random, *, inner: bool) -> None:
        """An instruction that may be rewritten, and one that it may jump over."""
        word = self._plain_word(chance)
        self._slots.append(_Slot(code.here, word, inner))
        code.raw(word)
        if code.here % 4 == 0:
            self._marked = code.here, self._mark(1)
        code.raw(self._mark(1))

    def _mark(self, step: int) -> int:
        return int.from_bytes(encode("addi", self._xlen, rd=MARK, rs1=MARK, imm=step), "little")

    def _plain_word(self, chance: random.Random) -> int:
        """Four bytes: an instruction or two short ones."""
        code = Code(xlen=self._xlen)
        if chance.randrange(3):
            self._instruction(code, chance)
        else:
            short(code, chance)
            short(code, chance)
        return int.from_bytes(code.bytes, "little")

    def _new_word(self, chance: random.Random, slot: _Slot, labels: dict[str, int]) -> int:
        """What a slot becomes."""
        code = Code(slot.address, self._xlen)
        first, second = self._general(chance), self._general(chance)
        match chance.randrange(12):
            case 0:
                code("jal", rd=0, imm=8)
            case 1:
                code(chance.choice(BRANCHES), rs1=first, rs2=second, imm=8)
            case 2:
                code("c.j", imm=4)
                short(code, chance)
            case 3:
                code.raw(0xFFFFFFFF)
            case 4:
                code(chance.choice(("ebreak", "ecall")))
            case 5:
                code("c.ebreak")
                short(code, chance)
            case 6 | 7 if slot.inner:
                # Anywhere: this block has taken its fuel.
                target = labels[f"b{chance.randrange(len(self.description.blocks))}"]
                code("jal", rd=0, imm=target - code.here)
            case _:
                return self._plain_word(chance)
        return int.from_bytes(code.bytes, "little")

    def _fill_table(self, code: Code) -> None:
        """Say for each writer which slot it writes, and what in turns."""
        size = self._xlen // 8
        table = bytearray()
        for writer, target in enumerate(self._writers):
            chance = random.Random(self.description.seed + writer)
            slot = self._slots[target % len(self._slots)] if self._slots else None
            address, old, new = 0, 0, 0
            if slot is not None:
                address, old = slot.address, slot.word
                new = self._new_word(chance, slot, code.labels)
            else:
                # There is none: what is behind the end is written.
                address = self.description.base + CODE_PAGES * PAGE - 64
            if self._paged and chance.randrange(3) == 0:
                address += ALIAS
            entry = b"".join(value.to_bytes(size, "little") for value in (address, new, new ^ old))
            table += entry.ljust(SLOT_ENTRY, b"\0")
        self.table = bytes(table)

    # Shapes ------------------------------------------------------------------------------

    def _shape(
        self, code: Code, chance: random.Random, number: int, block: Block, target: int
    ) -> None:
        match block.shape:
            case Shape.FALL:
                code("c.nop")
            case Shape.BRANCH:
                # Out of reach of a branch: around a jump.
                first, second = self._general(chance), self._general(chance)
                code(chance.choice(BRANCHES), rs1=first, rs2=second, imm=8)
                code("jal", to=f"b{target}", rd=0)
            case Shape.JUMP:
                code("jal", to=f"b{target}", rd=chance.choice((0, 0, LINK, self._general(chance))))
            case Shape.COMPUTED:
                code("auipc", rd=TARGET, imm=0)("addi", rd=TARGET, rs1=TARGET, imm=13)
                code("jalr", rd=chance.choice((0, TARGET, LINK)), rs1=TARGET, imm=0)
            case Shape.CALL:
                self._call(code, chance, number)
            case Shape.LOOP:
                turns = chance.randrange(2, self.description.turns + 1)
                code("addi", rd=TURNS, rs1=0, imm=turns).label(f"l{number}")
                self._straight(code, chance, chance.randrange(1, 6))
                if block.inner:
                    self._slot(code, chance, inner=True)
                code("addi", rd=TURNS, rs1=TURNS, imm=-1)
                code("bne", to=f"l{number}", rs1=TURNS, rs2=0)
            case Shape.RESERVE:
                width = chance.choice("wd" if self._xlen == 64 else "w")
                rd = self._general(chance)
                code(f"lr.{width}", rd=rd, rs1=ADDRESS)("addi", rd=rd, rs1=rd, imm=1)
                if chance.randrange(4) == 0:
                    self._instruction(code, chance)
                rd = self._general(chance)
                code(f"sc.{width}", rd=rd, rs1=ADDRESS, rs2=self._general(chance))
            case Shape.DEVICE:
                code.li(FAULTY, DEVICE + 8 * chance.randrange(4))
                if chance.randrange(2):
                    code(chance.choice(("lw", "lb", "lhu")), rd=self._general(chance), rs1=FAULTY)
                else:
                    code(chance.choice(("sw", "sb")), rs1=FAULTY, rs2=self._general(chance))
            case Shape.WALK:
                self._walk(code, chance, number)
            case Shape.FAULT:
                self._fault(code, chance)
            case Shape.REWRITE:
                self._rewrite(code, chance, block.target)

    def _call(self, code: Code, chance: random.Random, number: int) -> None:
        """Two calls of a function that may branch."""
        code("jal", to=f"f{number}", rd=LINK)("addi", rd=MARK, rs1=MARK, imm=3)
        code("jal", to=f"f{number}", rd=LINK)("jal", to=f"o{number}", rd=0)
        code.label(f"f{number}")
        self._straight(code, chance, chance.randrange(1, 4))
        code(chance.choice(BRANCHES), rs1=self._general(chance), rs2=self._general(chance), imm=8)
        code.raw(self._mark(5))
        if chance.randrange(2):
            self._slot(code, chance, inner=True)
        code("jalr", rd=0, rs1=LINK, imm=0).label(f"o{number}")

    def _walk(self, code: Code, chance: random.Random, number: int) -> None:
        """Accesses that come to where there is no memory, in some turn."""
        code("addi", rd=TURNS, rs1=0, imm=chance.randrange(2, 7)).label(f"w{number}")
        name = chance.choice(("lw", "lh", "flw", "fld", "sw", "sh", "fsw", "fsd", "amoxor.w"))
        rd = self._general(chance)
        if name.startswith("amo"):
            code(name, rd=rd, rs1=WALKER, rs2=self._general(chance))
        elif name[-2] == "s" or name[:2] == "fs":
            register = chance.randrange(4) if name[0] == "f" else rd
            code(name, rs1=WALKER, rs2=register, imm=0)
        else:
            code(name, rd=chance.randrange(4) if name[0] == "f" else rd, rs1=WALKER, imm=0)
        self._straight(code, chance, chance.randrange(3))
        code("addi", rd=WALKER, rs1=WALKER, imm=chance.choice((8, 60, 256, 1023, -8)))
        code("addi", rd=TURNS, rs1=TURNS, imm=-1)
        code("bne", to=f"w{number}", rs1=TURNS, rs2=0)
        if chance.randrange(3) == 0:
            code.li(WALKER, WALK + self._shift + PAGE - 512)

    def _fault(self, code: Code, chance: random.Random) -> None:
        rd, shift = self._general(chance), self._shift
        nothing = WALK + shift + PAGE if self._paged else NOWHERE
        match chance.randrange(10):
            case 0:
                code.li(FAULTY, nothing)(chance.choice(("lw", "lb")), rd=rd, rs1=FAULTY, imm=4)
            case 1:
                code.li(FAULTY, nothing)(chance.choice(("sw", "sb")), rs1=FAULTY, rs2=rd, imm=4)
            case 2:
                place = MIDDLE + shift + chance.choice((1, 2, 6))
                code.li(FAULTY, place)("amoadd.w", rd=rd, rs1=FAULTY, rs2=rd)
                code("lr.w", rd=rd, rs1=FAULTY)("sc.w", rd=rd, rs1=FAULTY, rs2=rd)
            case 3:
                place = READ_ONLY + shift if self._paged else nothing
                code.li(FAULTY, place)("amoor.w", rd=rd, rs1=FAULTY, rs2=rd)
                code("sh", rs1=FAULTY, rs2=rd, imm=2)
            case 4:
                # Into a page that is not there, from one that is.
                place = WALK + shift + PAGE - chance.randrange(1, 4) if self._paged else nothing
                name = chance.choice(("lw", "sw"))
                code.li(FAULTY, place)
                code(name, **({"rd": rd} if name == "lw" else {"rs2": rd}), rs1=FAULTY, imm=0)
            case 5:
                code.raw(chance.choice((0xFFFFFFFF, 0x0000307F)))
            case 6:
                code(chance.choice(("ebreak", "ecall", "c.ebreak")))
            case 7:
                code("csrrs", rd=rd, csr=0x7FF, rs1=0)
            case 8:
                # The handler goes on where the link points.
                code.li(FAULTY, nothing)("jalr", rd=LINK, rs1=FAULTY, imm=0)
            case _:
                code.li(FAULTY, nothing)(chance.choice(("flw", "fld")), rd=1, rs1=FAULTY, imm=8)

    def _rewrite(self, code: Code, chance: random.Random, target: int) -> None:
        """Write the next word over a slot, fence, and have the other one ready."""
        offset = SLOT_ENTRY * len(self._writers)
        size = self._xlen // 8
        self._writers.append(target)
        load, store = self._word
        code(load, rd=PLACE, rs1=TABLE, imm=offset)(load, rd=WORD, rs1=TABLE, imm=offset + size)
        match chance.randrange(5):
            case 0 | 1:
                code("sw", rs1=PLACE, rs2=WORD, imm=0)
            case 2:
                code("srli", rd=TARGET, rs1=WORD, imm=16)
                code("sh", rs1=PLACE, rs2=TARGET, imm=2)("sh", rs1=PLACE, rs2=WORD, imm=0)
            case 3:
                code("addi", rd=TARGET, rs1=WORD, imm=0)
                for index in range(4):
                    code("sb", rs1=PLACE, rs2=TARGET, imm=index)
                    code("srli", rd=TARGET, rs1=TARGET, imm=8)
            case _:
                code("fmv.w.x", rd=9, rs1=WORD)("fsw", rs1=PLACE, rs2=9, imm=0)
        code(load, rd=TARGET, rs1=TABLE, imm=offset + 2 * size)
        code("xor", rd=WORD, rs1=WORD, rs2=TARGET)
        code(store, rs1=TABLE, rs2=WORD, imm=offset + size)("fence.i")

    # Beginning ---------------------------------------------------------------------------

    def physical(self, address: int) -> int:
        """The physical address of one that the program sees."""
        offset = address - self.description.base
        if not self._paged or not 0 <= offset < CODE_PAGES * PAGE:
            return address - self._shift
        # Neighbours are swapped: what follows here does not follow there.
        return BASE + (offset ^ PAGE)

    def place(self, memory: GuestMemory) -> None:
        """Put code and data into memory that is empty."""
        for start in range(0, len(self.code), PAGE):
            place = self.physical(self.description.base + start)
            memory.write(place, self.code[start : start + PAGE])
        memory.write(SLOTS, self.table)
        memory.write(DATA, random.Random(self.description.seed).randbytes(PAGE))

    def begin(self, cpu: Any) -> None:
        """Set the registers that the program begins with."""
        description, chance = self.description, random.Random(self.description.seed)
        for number in range(32):
            cpu.f[number] = random_float(chance)
            cpu.x[number] = random_value(chance, self._xlen) if number else 0
        walker = WALK + PAGE if self._paged else BASE + SIZE
        known = {
            ADDRESS: MIDDLE + self._shift,
            SHORT_BASE: MIDDLE + self._shift,
            TABLE: SLOTS + self._shift,
            WALKER: walker - chance.randrange(1, 600) + self._shift,
            LOG_POINTER: LOG,
            FUEL: description.fuel,
            MARK: 0,
        }
        for register, value in known.items():
            cpu.x[register] = value
        cpu.frm, cpu.fflags = description.rounding, 0
        cpu.pc = description.base

    def prepare(self, m: SmallMachine) -> None:
        """Put everything into a machine, which is new then."""
        m.reset()
        self.place(m)
        self.begin(m.cpu)
        m.load(handler(self._xlen))
        address, word = (MARKED + 32, 0)
        if self._marked is not None:
            address, word = self.physical(self._marked[0]), self._marked[1]
        size = self._xlen // 8
        m.write(MARKED, address.to_bytes(size, "little") + word.to_bytes(size, "little"))
        m.vcpu.set("fcsr", self.description.rounding << 5)
        m.vcpu.set("mtvec", HANDLER)
        m.vcpu.set("mie", PENDING)
        m.cpu.mstatus |= riscv.MIE
        if self._paged:
            self._map(m)
        m.vcpu.set("privilege", self.description.privilege)

    def _map(self, m: SmallMachine) -> None:
        user = U if self.description.privilege == riscv.USER else 0
        table = PageTable(m)
        for number in range(CODE_PAGES):
            virtual = VIRTUAL + number * PAGE
            table.map(virtual, self.physical(virtual), RWX | user)
            table.map(virtual + ALIAS, self.physical(virtual), V | R | W | A | D | user)
        for place in (DATA, SLOTS, WALK):
            table.map(place + self._shift, place, RWX | user)
        table.map(READ_ONLY + self._shift, READ_ONLY, V | R | A | user)
        table.map(END, END, RWX | user)
        m.open_pmp()
        m.vcpu.set("satp", table.satp())


def short(code: Code, chance: random.Random) -> None:
    """A compressed instruction over the general registers."""
    near = GENERAL[2:]
    rd, rs2 = chance.choice(near), chance.choice(near)
    match chance.randrange(6):
        case 0:
            code("c.addi", rd=rd, imm=chance.choice((-32, -1, 1, 31)))
        case 1:
            code("c.mv", rd=rd, rs2=rs2)
        case 2:
            code("c.add", rd=rd, rs2=rs2)
        case 3:
            code(chance.choice(("c.sub", "c.xor", "c.or", "c.and")), rd=rd, rs2=rs2)
        case 4:
            code("c.lw", rd=rd, rs1=SHORT_BASE, imm=4 * chance.randrange(32))
        case _:
            code("c.sw", rs2=rs2, rs1=SHORT_BASE, imm=4 * chance.randrange(32))


def handler(xlen: int) -> Code:
    """Note the trap, then go on: behind the instruction, or where the link points.

    After an interrupt the marked instruction is another: it adds one more than before. (The
    registers it uses stay the same: a region that is stopped in a loop leaves those behind
    that its code, as it is then, does not read.)
    """
    size = xlen // 8
    load, store = ("ld", "sd") if size == 8 else ("lw", "sw")
    mprv = 17
    code = Code(HANDLER, xlen)
    code("csrrs", rd=CAUSE, csr=0x342, rs1=0)("csrrs", rd=HANDLER_PC, csr=0x341, rs1=0)
    code("csrrs", rd=SCRATCH, csr=0x343, rs1=0)
    code(store, rs1=LOG_POINTER, rs2=CAUSE, imm=0)
    code(store, rs1=LOG_POINTER, rs2=HANDLER_PC, imm=size)
    code(store, rs1=LOG_POINTER, rs2=SCRATCH, imm=2 * size)
    code("csrrs", rd=SCRATCH, csr=0xB02, rs1=0)
    code(store, rs1=LOG_POINTER, rs2=SCRATCH, imm=3 * size)
    code("addi", rd=LOG_POINTER, rs1=LOG_POINTER, imm=4 * size)
    code("blt", to="interrupt", rs1=CAUSE, rs2=0)
    code("addi", rd=SCRATCH, rs1=0, imm=riscv.INSTRUCTION_ACCESS_FAULT)
    code("beq", to="lost", rs1=CAUSE, rs2=SCRATCH)
    code("addi", rd=SCRATCH, rs1=0, imm=riscv.INSTRUCTION_PAGE_FAULT)
    code("beq", to="lost", rs1=CAUSE, rs2=SCRATCH)
    # How long it is: read as the program sees it.
    code.li(CAUSE, 1 << mprv)("csrrs", rd=0, csr=0x300, rs1=CAUSE)
    code("lhu", rd=SCRATCH, rs1=HANDLER_PC, imm=0)("csrrc", rd=0, csr=0x300, rs1=CAUSE)
    code("addi", rd=HANDLER_PC, rs1=HANDLER_PC, imm=2)
    code("andi", rd=SCRATCH, rs1=SCRATCH, imm=3)("addi", rd=CAUSE, rs1=0, imm=3)
    code("bne", to="go", rs1=SCRATCH, rs2=CAUSE)("addi", rd=HANDLER_PC, rs1=HANDLER_PC, imm=2)
    code.label("go")("csrrw", rd=0, csr=0x341, rs1=HANDLER_PC)("mret")
    code.label("lost")("csrrw", rd=0, csr=0x341, rs1=LINK)("mret")
    code.label("interrupt").li(SCRATCH, PENDING)("csrrc", rd=0, csr=0x344, rs1=SCRATCH)
    code.li(SCRATCH, MARKED)(load, rd=CAUSE, rs1=SCRATCH, imm=size)
    code.li(HANDLER_PC, 1 << 20)("add", rd=CAUSE, rs1=CAUSE, rs2=HANDLER_PC)
    code(store, rs1=SCRATCH, rs2=CAUSE, imm=size)(load, rd=HANDLER_PC, rs1=SCRATCH, imm=0)
    return code("sw", rs1=HANDLER_PC, rs2=CAUSE, imm=0)("fence.i")("mret")
