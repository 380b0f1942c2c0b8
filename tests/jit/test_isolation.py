"""What was translated for one mode, mapping or slot is never run for another."""

from __future__ import annotations

import pytest

from tandemu.accel import MmioWrite
from tandemu.isa.riscv import state as riscv
from tandemu.jit.engine import code_cache as cache_module
from tandemu.memory import Ram, RamRegion
from tandemu.native import ExecutableMemory, NativeError
from tests.jit.page_tables import RWX, RX, A, PageTable, R, U, V, X, pte
from tests.jit.small_machine import BASE, END, PAGE, Code, SmallMachine, machine

HANDLER = BASE + 0x40000
KERNEL = 0xFFFFFFC0_00000000


def handler(m: SmallMachine, address: int = HANDLER) -> None:
    """A machine-mode handler that ends the test with mcause."""
    code = Code(address)
    code("csrrs", rd=30, csr=0x342, rs1=0).finish(30)
    m.load(code)
    m.vcpu.set("mtvec", address)


def enter(m: SmallMachine, mode: int, pc: int) -> None:
    """Put the hart into *mode* at *pc*."""
    m.vcpu.set("privilege", mode)
    m.vcpu.set("pc", pc)


def test_supervisor_does_not_run_what_machine_mode_linked() -> None:
    """M mode's jumps between pages know physical addresses; S mode has other pages there."""
    m = machine()
    m.open_pmp()
    handler(m)
    table = PageTable(m)
    there = BASE + PAGE
    code = Code()
    code("addi", rd=5, rs1=0, imm=1)("jal", rd=0, imm=there - code.here)
    m.load(code)
    m.load(Code(there)("addi", rd=6, rs1=0, imm=1).finish(6))
    m.load(Code(BASE + 2 * PAGE)("addi", rd=6, rs1=0, imm=2).finish(6))
    assert m.finish() == 1
    m.vcpu.complete(0)
    # In S mode the second page is another one.
    table.map(BASE, BASE, RX)
    table.map(there, BASE + 2 * PAGE, RX)
    table.map(END, END, RWX)
    m.vcpu.set("satp", table.satp())
    enter(m, riscv.SUPERVISOR, BASE)
    leaving = m.run()
    # What was left to answer comes first.
    assert isinstance(leaving, MmioWrite)
    assert leaving.value == 2


@pytest.mark.parametrize("gap", [1, 5])
def test_an_instruction_over_two_pages_depends_on_both(gap: int) -> None:
    """Its second half lies on a physical page that is nowhere near the first."""
    m = machine()
    m.open_pmp()
    handler(m)
    table = PageTable(m)
    first, second = BASE + 16 * PAGE, BASE + (16 + gap) * PAGE
    table.map(KERNEL, first, RWX)
    table.map(KERNEL + PAGE, second, RWX)
    table.map(KERNEL + 2 * PAGE, BASE, RX)
    table.map(KERNEL + 3 * PAGE, second, RWX)
    table.map(END, END, RWX)
    word = int.from_bytes(Code()("addi", rd=6, rs1=0, imm=0x101).build(), "little")
    m.write(first + PAGE - 2, (word & 0xFFFF).to_bytes(2, "little"))
    rest = Code(second).raw(word >> 16, 2)
    rest("jalr", rd=0, rs1=1, imm=0)
    m.load(rest)
    # Call it, change its second half through another address, fence.i, call it again.
    main = Code(KERNEL + 2 * PAGE)
    main.li(10, KERNEL + PAGE - 2).li(11, KERNEL + 3 * PAGE).li(12, (word >> 16) + 0x3FF0)
    main("jalr", rd=1, rs1=10, imm=0)("addi", rd=7, rs1=6, imm=0)
    main("jalr", rd=1, rs1=10, imm=0)
    main("sh", rs1=11, rs2=12, imm=0)("fence.i")
    main("jalr", rd=1, rs1=10, imm=0).finish(6)
    m.write(BASE, main.build())
    m.vcpu.set("satp", table.satp())
    enter(m, riscv.SUPERVISOR, KERNEL + 2 * PAGE)
    assert m.finish() == 0x101 + 0x3FF
    assert m.cpu.x[7] == 0x101


def test_remapping_the_second_half_of_an_instruction() -> None:
    """sfence.vma of the page after the one that the instruction starts on."""
    m = machine()
    m.open_pmp()
    handler(m)
    table = PageTable(m)
    first, second, other = (BASE + number * PAGE for number in (16, 18, 21))
    table.map(KERNEL, first, RWX)
    place = table.map(KERNEL + PAGE, second, RWX)
    table.map(KERNEL + 2 * PAGE, BASE, RX)
    table.map(KERNEL + 3 * PAGE, place & -PAGE, RWX)
    table.map(END, END, RWX)
    word = int.from_bytes(Code()("addi", rd=6, rs1=0, imm=0x101).build(), "little")
    m.write(first + PAGE - 2, (word & 0xFFFF).to_bytes(2, "little"))
    for page, half in ((second, word >> 16), (other, (word >> 16) + 0x100)):
        rest = Code(page).raw(half, 2)
        m.load(rest("jalr", rd=0, rs1=1, imm=0))
    main = Code(KERNEL + 2 * PAGE)
    main.li(10, KERNEL + PAGE - 2).li(11, KERNEL + 3 * PAGE + place % PAGE)
    main.li(12, pte(other, RWX)).li(13, KERNEL + PAGE)
    main("jalr", rd=1, rs1=10, imm=0)("jalr", rd=1, rs1=10, imm=0)
    main("sd", rs1=11, rs2=12, imm=0)("sfence.vma", rs1=13, rs2=0)
    main("jalr", rd=1, rs1=10, imm=0).finish(6)
    m.write(BASE, main.build())
    m.vcpu.set("satp", table.satp())
    enter(m, riscv.SUPERVISOR, KERNEL + 2 * PAGE)
    assert m.finish() == 0x111


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("code", [False, True])
def test_fencing_one_address_of_a_large_page_fences_all_of_it(level: int, code: bool) -> None:
    """Privileged ISA, SFENCE.VMA: it is about the leaf entry that holds the address."""
    m = machine()
    m.open_pmp()
    handler(m)
    table = PageTable(m)
    large = KERNEL + (1 << 30)
    # A gigapage cannot lie in so small a RAM save at its start; take what there is.
    physical = BASE
    place = table.map(large, physical, RWX, level)
    table.map(KERNEL, BASE, RX)
    table.map(KERNEL + PAGE, place & -PAGE, RWX)
    table.map(END, END, RWX)
    m.load(Code(BASE + 5 * PAGE)("addi", rd=6, rs1=0, imm=1)("jalr", rd=0, rs1=1, imm=0))
    main = Code(KERNEL)
    main.li(10, large).li(11, large + 5 * PAGE).li(12, KERNEL + PAGE + place % PAGE)
    main("ld", rd=20, rs1=10, imm=0)("ld", rd=20, rs1=11, imm=0)
    main("jalr", rd=1, rs1=11, imm=0)
    main("sd", rs1=12, rs2=0, imm=0)("sfence.vma", rs1=10, rs2=0)
    if code:
        main("jalr", rd=1, rs1=11, imm=0)
    else:
        main("ld", rd=20, rs1=11, imm=0)
    main.finish(0)
    m.write(BASE, main.build())
    m.vcpu.set("satp", table.satp())
    enter(m, riscv.SUPERVISOR, KERNEL)
    assert m.finish() == (riscv.INSTRUCTION_PAGE_FAULT if code else riscv.LOAD_PAGE_FAULT)


def test_code_of_a_replaced_slot_is_forgotten() -> None:
    m = machine()
    base = 0x4000_0000
    rams = [Ram(PAGE), Ram(PAGE)]
    for number, ram in enumerate(rams):
        code = Code(base)("addi", rd=6, rs1=0, imm=number + 1)("jalr", rd=0, rs1=1, imm=0).build()
        ram.view[: len(code)] = code
    main = Code()
    main.li(10, base)("jalr", rd=1, rs1=10, imm=0).finish(6)
    m.load(main)
    handler(m)
    try:
        for number, ram in enumerate(rams):
            m.vm.set_memory_slot(RamRegion(base, PAGE, ram))
            m.vcpu.set("pc", BASE)
            assert m.finish() == number + 1
            m.vcpu.complete(0)
            m.vcpu.step()
    finally:
        m.vm.remove_memory_slot(base)
    m.vcpu.set("pc", BASE)
    assert m.finish() == riscv.INSTRUCTION_ACCESS_FAULT
    for ram in rams:
        ram.close()


def test_user_mode_does_not_reach_what_the_kernel_ran() -> None:
    """The jump cache tells modes apart."""
    m = machine()
    m.open_pmp()
    table = PageTable(m)
    kernel, user = KERNEL, 0x10000
    table.map(kernel, BASE, RX)
    table.map(user, BASE + PAGE, RX | U)
    table.map(END, END, RWX)
    main = Code(kernel)
    main.li(10, kernel).label("again")
    main("auipc", rd=10, imm=0)("addi", rd=10, rs1=10, imm=20)
    main("addi", rd=11, rs1=0, imm=3).label("loop")
    main("addi", rd=11, rs1=11, imm=-1)("jalr", rd=1, rs1=10, imm=0)
    target = main.here
    # The routine that the kernel calls; when it has counted down, it leaves for user mode.
    main("bne", to="back", rs1=11, rs2=0)
    main.li(12, user)("csrrw", rd=0, csr=0x141, rs1=12)
    main("sret").label("back")("jal", to="loop", rd=0)
    del target
    data = main.build()
    m.write(BASE, data)
    guest = Code(user)("jalr", rd=0, rs1=10, imm=0)
    m.write(BASE + PAGE, guest.build())
    trap = Code(kernel + 0x800)("csrrs", rd=30, csr=0x142, rs1=0)("csrrs", rd=29, csr=0x143, rs1=0)
    trap.finish(30)
    m.write(BASE + 0x800, trap.build())
    m.vcpu.set("medeleg", 0xB3FF)
    m.vcpu.set("stvec", kernel + 0x800)
    m.vcpu.set("satp", table.satp())
    enter(m, riscv.SUPERVISOR, kernel)
    assert m.finish() == riscv.INSTRUCTION_PAGE_FAULT
    assert m.cpu.x[29] == m.cpu.x[10]


def test_flags_of_pages() -> None:
    """A page without X is not run, one without R (and without MXR) not read."""
    m = machine()
    m.open_pmp()
    handler(m)
    table = PageTable(m)
    table.map(KERNEL, BASE, RX)
    table.map(KERNEL + PAGE, BASE + PAGE, V | A | X)
    table.map(KERNEL + 2 * PAGE, BASE + 2 * PAGE, V | A | R)
    table.map(END, END, RWX)
    main = Code(KERNEL)
    main.li(10, KERNEL + PAGE).li(11, riscv.MXR)
    main("csrrs", rd=0, csr=0x100, rs1=11)("ld", rd=1, rs1=10, imm=0)
    main("csrrc", rd=0, csr=0x100, rs1=11)("addi", rd=7, rs1=0, imm=1)("ld", rd=1, rs1=10, imm=0)
    m.write(BASE, main.build())
    m.vcpu.set("satp", table.satp())
    enter(m, riscv.SUPERVISOR, KERNEL)
    assert m.finish() == riscv.LOAD_PAGE_FAULT
    assert m.cpu.x[7] == 1


def test_a_machine_makes_do_with_a_smaller_code_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Address space below 2 GiB is scarce where many machines share a process."""
    limit = 16 << 20

    class Scarce(ExecutableMemory):
        def __init__(self, size: int, *, low: bool = True) -> None:
            if size > limit:
                raise NativeError("no room")
            super().__init__(size, low=low)

    monkeypatch.setattr(cache_module, "ExecutableMemory", Scarce)
    m = SmallMachine().reset()
    assert m.load(Code().li(5, 7).finish(5)).finish() == 7
    m.vm.close()
