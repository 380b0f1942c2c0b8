"""Code that a foreign program writes: what was translated from it is forgotten, and no more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tandemu.accel.user import CodePage, SystemCall
from tandemu.isa.riscv.architecture import BY_XLEN
from tandemu.jit.regions.compiler import compile_request
from tandemu.jit.regions.request import Region, RegionRequest
from tests.jit.random_program import CODE_PAGES, VIRTUAL
from tests.jit.small_machine import BASE, PAGE, Code, encode
from tests.jit.user_bed import UserBed, user_bed

FUNCTION = VIRTUAL + 0x800
"""On the page of what calls it; `PAGE` further there is another one."""
FAR = FUNCTION + PAGE
ADD = encode("addi", rd=6, rs1=6, imm=1)


def place(address: int) -> int:
    """Where the bed has what a program sees at *address*: neighbours are swapped."""
    return BASE + (address - VIRTUAL ^ PAGE)


def function(bed: UserBed, address: int, value: int) -> None:
    """Put a function there that adds *value* to x6."""
    code = Code(address)("addi", rd=6, rs1=6, imm=value)("jalr", rd=0, rs1=1, imm=0)
    bed.write(place(address), code.build())


@pytest.fixture
def bed() -> Iterator[UserBed]:
    """The bed with a program that calls both functions 100 times, then its system."""
    bed = user_bed()
    bed.ram[:] = bytes(len(bed.ram))
    code = Code(VIRTUAL).label("begin").li(5, 100).li(6, 0).label("turn")
    for target in (FUNCTION, FAR):
        code("jal", rd=1, imm=target - code.here)
    code("addi", rd=5, rs1=5, imm=-1)("bne", to="turn", rs1=5, rs2=0)("ecall")
    bed.write(place(VIRTUAL), code("jal", to="begin", rd=0).build())
    function(bed, FUNCTION, 1)
    function(bed, FAR, 10)
    bed.engine.code_changed(VIRTUAL, CODE_PAGES * PAGE)
    cpu = bed.cpu.cpu
    bed.engine.cache.state.hot_threshold = 0
    cpu.pc, cpu.slice_length = VIRTUAL, 1 << 16
    cpu.budget = cpu.slice = 0
    yield bed
    bed.engine.code_changed(VIRTUAL, CODE_PAGES * PAGE)
    bed.engine.cache.flush()


def result(bed: UserBed) -> int:
    """What the program computes this time."""
    assert bed.cpu.run() == SystemCall()
    value: int = bed.cpu.cpu.x[6]
    return value


def test_only_what_changed_is_translated_again(bed: UserBed) -> None:
    cpu = bed.engine.cache.state
    assert result(bed) == 1100
    before = cpu.stale, cpu.translations, cpu.flushes
    bed.engine.code_written(VIRTUAL, 2 * PAGE)
    assert result(bed) == 1100
    # The jump behind the call is new.
    assert (cpu.stale, cpu.translations, cpu.flushes) == (before[0], before[1] + 1, before[2])
    before = cpu.stale, cpu.translations, cpu.flushes
    function(bed, FUNCTION, 2)
    bed.engine.code_written(FUNCTION, 4)
    assert result(bed) == 1200
    assert (cpu.stale, cpu.translations, cpu.flushes) == (before[0] + 1, before[1] + 1, before[2])
    # And back again, when the first translation is long gone.
    function(bed, FUNCTION, 1)
    bed.engine.code_written(FUNCTION, 4)
    assert result(bed) == 1100


def test_what_is_not_mentioned_stays(bed: UserBed) -> None:
    """A program that does not ask for its new code may have the old one."""
    assert result(bed) == 1100
    function(bed, FAR, 20)
    bed.engine.code_written(FUNCTION, 4)
    assert result(bed) == 1100
    bed.engine.code_written(0, bed.engine.size)
    assert result(bed) == 2100


def test_a_page_that_is_gone_is_asked_for_again(
    bed: UserBed, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert result(bed) == 1100
    asked: list[int] = []
    answer = bed.engine.code_page

    def ask(address: int) -> CodePage:
        asked.append(address)
        return answer(address)

    monkeypatch.setattr(bed.engine, "code_page", ask)
    bed.engine.code_changed(FAR, 1)
    assert result(bed) == 1100
    assert asked == [FAR]


def test_regions_with_code_of_other_pages(bed: UserBed) -> None:
    """One that begins on the first page and goes on to the second."""
    assert result(bed) == 1100
    here = bed.cpu.place(VIRTUAL)
    request = RegionRequest(here.kind, here.pc, 2, bed.cpu.code(here))
    for value in (10, 20, 30):
        function(bed, FAR, value)
        bed.engine.code_written(FAR, 4)
        assert result(bed) == 100 + 100 * value
        region = compile_request(BY_XLEN[64], request._replace(pages=bed.cpu.code(here)))
        assert isinstance(region, Region) and {FAR & -PAGE, VIRTUAL} == region.pages()
        assert bed.cpu.regions.install(region, bed.cpu, bed.cpu)
        assert result(bed) == 100 + 100 * value
        stale = bed.engine.cache.state.stale_regions
        # What is the same leaves it in peace.
        bed.engine.code_written(VIRTUAL, 2 * PAGE)
        assert result(bed) == 100 + 100 * value
        assert bed.engine.cache.state.stale_regions == stale
    function(bed, FAR, 40)
    bed.engine.code_written(FAR, 4)
    assert result(bed) == 4100
    assert bed.engine.cache.state.stale_regions > stale


def test_code_that_is_always_new_evicts_old(bed: UserBed) -> None:
    """More than the cache holds: it goes round, and no room is lost."""
    first = VIRTUAL + 2 * PAGE
    count = 13 * PAGE // 4 - 2
    code = Code(first)
    for number in range(count):
        code("addi", rd=6, rs1=6, imm=1 if number % 8 else 0)
        if number % 8 == 7:
            code("jal", rd=0, imm=4)
    bed.ram[:] = bytes(len(bed.ram))
    data = (code.build()[: 13 * PAGE - 8]) + encode("ecall")
    expected = sum(data[start : start + 4] == ADD for start in range(0, len(data), 4))
    for start in range(0, len(data), PAGE):
        bed.write(place(first + start), data[start : start + PAGE])
    cpu = bed.engine.create_cpu()
    try:
        state = bed.engine.cache.state
        before = state.evictions
        # Each time all of it is new: what was there was forgotten, and takes up room.
        while state.evictions < before + 10:
            cpu.cpu.pc, cpu.cpu.x[6] = first, 0
            bed.engine.code_changed(first, 13 * PAGE)
            assert cpu.run() == SystemCall()
            assert cpu.cpu.x[6] == expected
    finally:
        cpu.close()
