"""Loops whose turns are counted at their start do what the same loops do turn by turn.

Random loops of one block: every comparison, steps of any size and sign, in 64 and in 32 bits,
few turns and many, bounds that are never met. Their accesses go up and down beside and over each
other, which is where a vector would show. The machine's native interpreter, one step at a time, is
the oracle; budgets are odd.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandemu.isa.riscv import state as riscv
from tandemu.isa.riscv.architecture import RISCV64
from tandemu.jit.regions import building
from tandemu.jit.regions.counted import CountedLoop, find_counted
from tandemu.jit.regions.graph import find_graph
from tandemu.jit.regions.request import RegionKind
from tandemu.jit.shared.layout import cpu_layout
from tests.jit.followed import SHORTEST, Cut
from tests.jit.optimised import FirstTouch
from tests.jit.random_code import STRAIGHT, candidates
from tests.jit.random_program import (
    BRANCHES,
    SEEDS,
    SOFTWARE_INTERRUPT,
    TIMER_INTERRUPT,
    VIRTUAL,
    Description,
    GuestMemory,
    RandomProgram,
    examples,
)
from tests.jit.small_machine import BASE, DATA, PAGE, Code, machine, random_float
from tests.jit.test_random_programs import compare
from tests.jit.user_bed import on_a_machine, user_bed

FLAGS, MOVING, BOUND, FIRST, SECOND, ROUNDS = 1, 26, 27, 28, 30, 31
MOST_TURNS = 150
"""More would leave the page of data."""
STEPS = (1, 1, 1, 2, 3, 4, 8, 24, 160, 2047)
ACCESSES = {
    "lb": 1, "lbu": 1, "lh": 2, "lhu": 2, "lw": 4, "lwu": 4, "ld": 8, "flw": 4, "fld": 8,
    "sb": 1, "sh": 2, "sw": 4, "sd": 8, "fsw": 4, "fsd": 8,
}  # fmt: skip
PROGRAM = RegionKind("riscv64", flat=True, context=0, precise=False)
MACHINE = RegionKind("riscv64", flat=False, context=0)
LIMIT = 400_000


class Loops(RandomProgram):
    """Some loops, two times over."""

    def __init__(
        self, seed: int, rounding: int, privilege: int = riscv.USER, middle: int = PAGE // 2
    ) -> None:
        """*middle*: where in the page of data accesses begin."""
        self._middle = middle
        super().__init__(Description(64, privilege, (), 0, 0, rounding, seed))

    def _make(self) -> None:
        chance = random.Random(self.description.seed)
        self._pool = tuple(
            one for one in candidates(64, STRAIGHT) if chance.randrange(3) or not one.floating
        )
        code = Code(self.description.base)
        code("addi", rd=ROUNDS, rs1=0, imm=2).label("again")
        for number in range(4):
            self._loop(code, chance, f"l{number}")
        code("addi", rd=ROUNDS, rs1=ROUNDS, imm=-1)
        code("bne", to="again", rs1=ROUNDS, rs2=0)("csrrs", rd=FLAGS, csr=1, rs1=0)
        # Seen here: the last access is refused, and a region need not have them at hand there.
        code("ecall").finish()
        self.code, self.table = code.build(), bytes(PAGE)

    def _loop(self, code: Code, chance: random.Random, label: str) -> None:
        step = chance.choice(STEPS) * chance.choice((1, 1, -1))
        turns = chance.choice((0, 1, 3, 15, 16, 17, 33, 64, 70, 100))
        name = chance.choice(BRANCHES[1:])
        narrow = chance.randrange(3) == 0
        start = self._start(chance, narrow)
        # The bound itself, or what is next to it.
        bound = start + step * turns + chance.choice((0, 0, 0, 1, -1))
        if not narrow and chance.randrange(8) == 0:
            # As loops that count down to zero have it.
            start, bound = -step * max(turns, 1), 0
        code.li(MOVING, start).li(BOUND, bound)
        middle = DATA + self._middle + self.description.base - BASE
        for pointer in (FIRST, SECOND):
            code.li(pointer, middle + chance.randrange(-8, 9))
        code.label(label)
        before = chance.randrange(4) == 0
        move = "addiw" if narrow else "addi"
        if before:
            code(move, rd=MOVING, rs1=MOVING, imm=step)
        if chance.randrange(3) == 0:
            self._stream(code, chance)
        else:
            for _ in range(chance.randrange(1, 6)):
                if chance.randrange(2):
                    self._instruction(code, chance)
                else:
                    self._access(code, chance)
        for pointer in (FIRST, SECOND):
            if chance.randrange(4):
                code("addi", rd=pointer, rs1=pointer, imm=chance.choice((1, 4, 4, 8, 8, -8, 12)))
        if not before:
            code(move, rd=MOVING, rs1=MOVING, imm=step)
        # A comparison that soon fails, or ends by the fuel.
        pair = (MOVING, BOUND) if (step > 0) == (name in ("blt", "bltu")) else (BOUND, MOVING)
        if chance.randrange(6) == 0:
            pair = pair[1], pair[0]
        if name == "bne" or self._ends(name, pair, start, step, bound, narrow):
            wrong = name == "bne" and not self._meets(start, step, bound)
            name = "blt" if wrong else name
            if wrong:
                pair = (MOVING, BOUND) if step > 0 else (BOUND, MOVING)
            code(name, to=label, rs1=pair[0], rs2=pair[1])

    def _start(self, chance: random.Random, narrow: bool) -> int:
        near = chance.randrange(-2000, 2000)
        edges = (0, 1 << 31, -(1 << 31), 1 << 32) if not narrow else (0, 0, 1 << 30, -(1 << 30))
        return near + chance.choice(edges)

    def _meets(self, start: int, step: int, bound: int) -> bool:
        turns, rest = divmod(bound - start, step)
        return rest == 0 and 0 < turns <= MOST_TURNS

    def _ends(
        self, name: str, pair: tuple[int, int], start: int, step: int, bound: int, narrow: bool
    ) -> bool:
        """Whether a loop ends within some turns."""
        value = start
        for _ in range(MOST_TURNS):
            value += step
            if narrow:
                value = (value + (1 << 31)) % (1 << 32) - (1 << 31)
            left, right = (value, bound) if pair[0] == MOVING else (bound, value)
            if name.endswith("u"):
                left, right = left % (1 << 64), right % (1 << 64)
            if not (left < right if name in ("blt", "bltu") else left >= right):
                return True
        return False

    def _stream(self, code: Code, chance: random.Random) -> None:
        """Arithmetic on doubles that come from memory and go there, or some of them."""
        code("fld", rd=0, rs1=FIRST, imm=0)("fld", rd=1, rs1=SECOND, imm=8)
        for result in range(2, 2 + chance.randrange(1, 4)):
            name = chance.choice(("fadd.d", "fsub.d", "fmul.d", "fdiv.d", "fsqrt.d", "fmadd.d"))
            sources = {"rs1": chance.randrange(result), "rs2": chance.randrange(result)}
            if name == "fsqrt.d":
                del sources["rs2"]
            elif name == "fmadd.d":
                sources["rs3"] = chance.randrange(result)
            code(name, rd=result, rm=7, **sources)
            if chance.randrange(4):
                code("fsd", rs1=chance.choice((FIRST, SECOND)), rs2=result, imm=0)

    def place(self, memory: GuestMemory) -> None:
        """With doubles of all kinds in memory."""
        super().place(memory)
        chance = random.Random(self.description.seed)
        doubles = b"".join(random_float(chance).to_bytes(8, "little") for _ in range(PAGE // 8))
        memory.write(DATA, doubles)

    def _access(self, code: Code, chance: random.Random) -> None:
        name = chance.choice(tuple(ACCESSES))
        size, pointer = ACCESSES[name], chance.choice((FIRST, SECOND))
        register = chance.randrange(4) if "f" in name else self._general(chance)
        offset = chance.choice((0, 0, size, -size, 4, -8, 32, 64, 1))
        key = "rs2" if name.lstrip("f").startswith("s") else "rd"
        code(name, rs1=pointer, imm=offset, **{key: register})


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[CountedLoop]]:
    """The loops that regions are made with; a program has no handler for faults meanwhile."""
    found: list[CountedLoop] = []

    def find(*arguments: Any) -> CountedLoop | None:
        loop = find_counted(*arguments)
        if loop is not None:
            found.append(loop)
        return loop

    monkeypatch.setattr(building, "find_counted", find)
    bed = user_bed()
    bed.engine.precise = False
    yield found
    bed.engine.precise = True


LENGTHS = st.lists(st.sampled_from(range(64, 3000)), min_size=1, max_size=5)


def test_random_loops(counted: list[CountedLoop]) -> None:
    """Registers, flags, memory: bit for bit."""

    @examples(20, 8_000)
    @given(st.sampled_from(SEEDS), LENGTHS, st.sampled_from(range(4)))
    def check(seed: int, lengths: list[int], rounding: int) -> None:
        loops, bed = Loops(seed, rounding), user_bed()
        expected = on_a_machine(machine(), loops, LIMIT)
        regions = FirstTouch(64, levels=(2,))
        for touch in (None, regions.touch, regions.touch):
            outcome = bed.run(loops, lengths, touch)
            assert len(outcome.traps) == 1
            assert outcome.traps == expected.traps
            assert outcome.memory == expected.memory

    check()
    relaxed = [loop for loop in counted if loop.function.relaxed]
    assert len(counted) > 20 and len(relaxed) > 3


CUTS = st.lists(
    st.builds(
        Cut,
        length=st.sampled_from(range(SHORTEST, 4000)),
        least=st.sampled_from(range(1, 3000)),
        interrupt=st.sampled_from((0, SOFTWARE_INTERRUPT, TIMER_INTERRUPT)),
    ),
    min_size=1,
    max_size=8,
)


def test_random_loops_of_a_machine(counted: list[CountedLoop]) -> None:
    """They come to the end of a page, and to where there is no memory."""

    @examples(8, 4_000)
    @given(
        st.sampled_from(SEEDS),
        CUTS,
        st.sampled_from(range(4)),
        st.sampled_from((riscv.MACHINE, riscv.SUPERVISOR, riscv.USER)),
        st.sampled_from((PAGE // 2, PAGE - 100, 100)),
    )
    def check(seed: int, cuts: list[Cut], rounding: int, privilege: int, middle: int) -> None:
        loops = Loops(seed, rounding, privilege, middle)
        compare(loops, cuts, ((2,), 1), evaluated=False)

    check()
    assert len(counted) > 8


def find(code: Code, kind: RegionKind = PROGRAM) -> CountedLoop | None:
    """The loop at the beginning of *code*."""
    page = code.build().ljust(PAGE, b"\0")
    graph = find_graph(RISCV64, {VIRTUAL: page}, VIRTUAL, kind, 2)
    assert graph is not None
    block = graph.blocks[VIRTUAL]
    return find_counted(RISCV64, kind, cpu_layout(RISCV64.state), block, frozenset(), "loop")


def loop(
    *body: tuple[str, dict[str, int]], branch: str = "bne", left: int = 5, right: int = 6
) -> Code:
    code = Code(VIRTUAL).label("loop")
    for name, operands in body:
        code(name, **operands)
    return code(branch, to="loop", rs1=left, rs2=right).finish()


UP = ("addi", {"rd": 5, "rs1": 5, "imm": 4})
DOWN = ("addi", {"rd": 5, "rs1": 5, "imm": -4})


@pytest.mark.parametrize(
    ("code", "is_counted"),
    [
        pytest.param(loop(UP), True, id="until it meets the bound"),
        pytest.param(loop(DOWN, right=0), True, id="down to zero"),
        pytest.param(loop(UP, branch="bltu"), True, id="below a bound"),
        pytest.param(loop(DOWN, branch="bltu"), False, id="below a bound, and down"),
        pytest.param(loop(DOWN, branch="bge"), True, id="not below a bound"),
        pytest.param(loop(UP, branch="bge"), False, id="not below a bound, and up"),
        pytest.param(loop(UP, branch="beq"), False, id="as long as they are equal"),
        pytest.param(loop(UP, UP), True, id="twice in a turn"),
        pytest.param(loop(UP, DOWN), False, id="it stays"),
        pytest.param(
            loop(UP, ("addi", {"rd": 6, "rs1": 6, "imm": 1})), False, id="the bound moves"
        ),
        pytest.param(loop(("add", {"rd": 5, "rs1": 5, "rs2": 7})), False, id="by a register"),
        pytest.param(loop(("addiw", {"rd": 5, "rs1": 5, "imm": 1})), True, id="in 32 bits"),
        pytest.param(loop(UP, ("ld", {"rd": 6, "rs1": 5, "imm": 0})), False, id="a loaded bound"),
        pytest.param(loop(UP, ("lr.w", {"rd": 7, "rs1": 5})), False, id="an atomic"),
        pytest.param(loop(UP, ("fence", {})), False, id="a fence"),
        pytest.param(
            loop(
                *(
                    ("addi", {"rd": 7, "rs1": 0, "imm": 1}),
                    ("slli", {"rd": 7, "rs1": 7, "imm": 60}),
                ),
                ("add", {"rd": 5, "rs1": 5, "rs2": 7}),
                branch="blt",
            ),
            False,
            id="by too much",
        ),
    ],
)
def test_what_is_counted(code: Code, is_counted: bool) -> None:
    assert (find(code) is not None) == is_counted


def test_a_bound_that_is_cut_to_32_bits() -> None:
    """It is not the register that it comes from."""
    code = loop(UP, ("addiw", {"rd": 6, "rs1": 7, "imm": 0}), branch="blt")
    found = find(code)
    assert found is not None and found.turns.bound == 7 and found.turns.narrow


def through(*registers: int, step: int = 8, name: str = "ld") -> Code:
    """A loop with accesses through registers, which move."""
    body: list[tuple[str, dict[str, int]]] = [
        (name, {"rd": 7, "rs1": one, "imm": 0}) for one in registers
    ]
    body += [("addi", {"rd": one, "rs1": one, "imm": step}) for one in registers]
    return loop(UP, *body)


@pytest.mark.parametrize(
    ("code", "is_counted"),
    [
        pytest.param(through(10, 11), True, id="through two registers"),
        pytest.param(loop(UP, ("ld", {"rd": 7, "rs1": 10, "imm": 0})), True, id="at one place"),
        pytest.param(through(10, step=640), False, id="few in a page"),
        pytest.param(loop(UP, ("ld", {"rd": 10, "rs1": 10, "imm": 0})), False, id="a list"),
    ],
)
def test_what_is_counted_in_a_machine(code: Code, is_counted: bool) -> None:
    """Where one look into the TLB is enough for many turns."""
    assert (find(code, MACHINE) is not None) == is_counted
    assert find(code) is not None


def doubles(step: int, *stores: tuple[int, int], moved: int = 10) -> Code:
    """A loop with a product for each of *stores*: through which register, how far from it."""
    body: list[tuple[str, dict[str, int]]] = [("fld", {"rd": 0, "rs1": 11, "imm": 0})]
    for number, (register, offset) in enumerate(stores, 1):
        body.append(("fmul.d", {"rd": number, "rs1": 0, "rs2": 0, "rm": 7}))
        body.append(("fsd", {"rs1": register, "rs2": number, "imm": offset}))
    return loop(UP, *body, ("addi", {"rd": moved, "rs1": moved, "imm": step}))


@pytest.mark.parametrize(
    ("code", "is_relaxed"),
    [
        pytest.param(doubles(8, (10, 0)), True, id="each to its own place"),
        pytest.param(doubles(16, (10, 0), (10, 8)), True, id="two, side by side"),
        pytest.param(doubles(-16, (10, 0), (10, 8)), True, id="two, going down"),
        pytest.param(doubles(8, (10, 0), (10, 0)), False, id="two at one place"),
        pytest.param(doubles(16, (10, 0), (10, 4)), False, id="two that overlap"),
        pytest.param(doubles(8, (10, 0), (10, 8)), False, id="over the next turn's"),
        pytest.param(doubles(16, (10, 0), (10, 44)), False, id="over a part of a later turn's"),
        pytest.param(doubles(-8, (10, 0), (10, -8)), False, id="over the next turn's, going down"),
        pytest.param(doubles(4, (10, 0)), False, id="over half of its own"),
        pytest.param(doubles(8, (12, 0)), False, id="at one place"),
    ],
)
def test_which_doubles_are_relaxed(code: Code, is_relaxed: bool) -> None:
    """Only where no store, of this turn or a later one, is known to undo another: LLVM drops
    what is undone, and with it the operation and the flags that it raises."""
    found = find(code)
    assert found is not None and found.function.relaxed == is_relaxed
