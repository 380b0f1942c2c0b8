"""What may be reached changes while code runs: SUM, MXR, MPRV, ASIDs, PMP, ROM, harts."""

from __future__ import annotations

import threading

import pytest

from tandemu.accel import Exit, MmioWrite, Stopped
from tandemu.isa.riscv import state as riscv
from tandemu.memory import Ram, RamRegion
from tests.jit.page_tables import RW, RWX, RX, TABLES, A, G, PageTable, U, V, X, pte
from tests.jit.small_machine import BASE, END, PAGE, Code, SmallMachine, machine

HANDLER = BASE + 0x40000
KERNEL = 0xFFFFFFC0_00000000
DATA = BASE + 32 * PAGE
SSTATUS, SATP, MSTATUS, PMPCFG0 = 0x100, 0x180, 0x300, 0x3A0
ROUNDS = 40
"""Enough for every access to have been translated and to hit its TLB."""


def skipping_faults(m: SmallMachine) -> None:
    """A handler in M mode that counts faults in s2, keeps the cause in s3, and goes on."""
    code = Code(HANDLER)("addi", rd=18, rs1=18, imm=1)("csrrs", rd=19, csr=0x342, rs1=0)
    code("csrrs", rd=30, csr=0x341, rs1=0)("addi", rd=30, rs1=30, imm=4)
    m.load(code("csrrw", rd=0, csr=0x341, rs1=30)("mret"))
    m.vcpu.set("mtvec", HANDLER)
    m.open_pmp()


def supervisor(m: SmallMachine, code: Code, table: PageTable) -> None:
    m.write(BASE, code.build())
    table.map(KERNEL, BASE, RX)
    table.map(END, END, RWX)
    m.vcpu.set("satp", table.satp())
    m.vcpu.set("privilege", riscv.SUPERVISOR)
    m.vcpu.set("pc", code.base)


@pytest.mark.parametrize(
    ("bit", "flags", "access"),
    [
        pytest.param(riscv.SUM, RW | U, "ld", id="SUM-load"),
        pytest.param(riscv.SUM, RW | U, "sd", id="SUM-store"),
        pytest.param(riscv.SUM, RW | U, "amoadd.d", id="SUM-atomic"),
        pytest.param(riscv.MXR, V | A | X, "ld", id="MXR-load"),
    ],
)
def test_toggling_what_supervisor_may_reach(bit: int, flags: int, access: str) -> None:
    """Each time round one access is allowed and one, the same, is not."""
    m = machine()
    skipping_faults(m)
    table = PageTable(m)
    table.map(KERNEL + PAGE, DATA, flags)
    code = Code(KERNEL).li(10, KERNEL + PAGE).li(11, bit).li(12, ROUNDS)
    code("addi", rd=14, rs1=0, imm=1).label("again")
    for toggle in ("csrrs", "csrrc"):
        code(toggle, rd=0, csr=SSTATUS, rs1=11)
        operands = {"imm": 0} if access in ("ld", "sd") else {}
        operands |= {"rs2": 14} if access != "ld" else {}
        operands |= {"rd": 15} if access != "sd" else {}
        code(access, rs1=10, **operands)
        # Counted in s4 if it did not fault: the fault skips the access only.
        code("add", rd=20, rs1=20, rs2=18)
    code("addi", rd=12, rs1=12, imm=-1)("bne", to="again", rs1=12, rs2=0).finish(18)
    supervisor(m, code, table)
    assert m.finish() == ROUNDS
    assert m.cpu.x[19] == (riscv.LOAD_PAGE_FAULT if access == "ld" else riscv.STORE_PAGE_FAULT)
    # Before the faulting access of round n there were n - 1 faults, after it n.
    assert m.cpu.x[20] == ROUNDS * ROUNDS
    stored = int.from_bytes(m.read(DATA, 8), "little")
    assert stored == {"ld": 0, "sd": 1, "amoadd.d": ROUNDS}[access]


def test_user_code_is_never_run_by_the_supervisor() -> None:
    """SUM is about data."""
    m = machine()
    skipping_faults(m)
    code = Code(HANDLER)("csrrs", rd=30, csr=0x342, rs1=0).finish(30)
    m.load(code)
    table = PageTable(m)
    table.map(KERNEL + PAGE, DATA, RWX | U)
    m.load(Code(DATA).finish(0))
    code = Code(KERNEL).li(10, KERNEL + PAGE).li(11, riscv.SUM)
    supervisor(m, code("csrrs", rd=0, csr=SSTATUS, rs1=11)("jalr", rd=1, rs1=10, imm=0), table)
    assert m.finish() == riscv.INSTRUCTION_PAGE_FAULT


def test_toggling_the_privilege_of_data() -> None:
    """With MPRV machine mode's data are where MPP has them; its code stays physical."""
    m = machine()
    skipping_faults(m)
    table = PageTable(m)
    table.map(DATA, DATA + PAGE, RW)
    m.vcpu.set("satp", table.satp())
    m.write(DATA, (1).to_bytes(8, "little"))
    m.write(DATA + PAGE, (1000).to_bytes(8, "little"))
    code = Code().li(10, DATA).li(11, riscv.MPRV).li(12, ROUNDS).li(13, 1 << riscv.MPP_LOW)
    code("csrrs", rd=0, csr=MSTATUS, rs1=13).label("again")
    for toggle in ("csrrs", "csrrc"):
        code(toggle, rd=0, csr=MSTATUS, rs1=11)("ld", rd=5, rs1=10, imm=0)
        code("add", rd=6, rs1=6, rs2=5)("addi", rd=5, rs1=5, imm=1)("sd", rs1=10, rs2=5, imm=0)
    m.load(code("addi", rd=12, rs1=12, imm=-1)("bne", to="again", rs1=12, rs2=0).finish(6))
    assert m.finish() == sum(1001 + 2 * turn for turn in range(ROUNDS))
    assert m.cpu.x[18] == 0


def test_privilege_of_data_can_fault() -> None:
    """MPRV with MPP = U: the supervisor's page is out of reach."""
    m = machine()
    skipping_faults(m)
    # What the handler's mret makes of MPRV is not at issue: it ends the test.
    m.load(Code(HANDLER).li(5, riscv.MPRV)("csrrc", rd=0, csr=MSTATUS, rs1=5).finish(6))
    table = PageTable(m)
    table.map(DATA, DATA, RW)
    m.vcpu.set("satp", table.satp())
    code = Code().li(10, DATA).li(11, riscv.MPRV)("ld", rd=5, rs1=10, imm=0)
    code("addi", rd=6, rs1=0, imm=7)("csrrs", rd=0, csr=MSTATUS, rs1=11)
    m.load(code("ld", rd=5, rs1=10, imm=0)("addi", rd=6, rs1=0, imm=8).finish(6))
    assert m.finish() == 7
    assert m.cpu.mcause == riscv.LOAD_PAGE_FAULT


def fill(m: SmallMachine, address: int, value: int) -> None:
    m.write(address, value.to_bytes(8, "little"))


def test_address_spaces_are_kept_apart() -> None:
    """Changing satp to another ASID needs no fence, whatever the TLB holds."""
    m = machine()
    skipping_faults(m)
    tables = [PageTable(m), PageTable(m, base=TABLES + 64 * PAGE)]
    code = Code(KERNEL).li(10, KERNEL + PAGE).li(12, ROUNDS).label("again")
    for number, table in enumerate(tables):
        table.map(KERNEL + PAGE, DATA + number * PAGE, RW)
        table.map(KERNEL, BASE, RX)
        table.map(END, END, RWX)
        fill(m, DATA + number * PAGE, (1, 1000)[number])
        code.li(11, table.satp(number + 1))("csrrw", rd=0, csr=SATP, rs1=11)
        code("ld", rd=5, rs1=10, imm=0)("add", rd=6, rs1=6, rs2=5)
    code("addi", rd=12, rs1=12, imm=-1)("bne", to="again", rs1=12, rs2=0).finish(6)
    supervisor(m, code, tables[0])
    assert m.finish() == ROUNDS * 1001


@pytest.mark.parametrize("fenced", ["all", "asid", "address", "both", "inval"])
@pytest.mark.parametrize("shared", [False, True])
def test_fencing_an_address_space(fenced: str, shared: bool) -> None:
    """A new entry holds after the fence for its ASID; a global one needs a fence for all."""
    if shared and fenced in ("asid", "both"):
        pytest.skip("a fence for one ASID leaves global entries as they are")
    m = machine()
    skipping_faults(m)
    table = PageTable(m)
    flags = RW | (G if shared else 0)
    place = table.map(KERNEL + PAGE, DATA, flags)
    table.map(KERNEL + 2 * PAGE, place & -PAGE, RW)
    fill(m, DATA, 1)
    fill(m, DATA + PAGE, 1000)
    asid = 5
    code = Code(KERNEL).li(10, KERNEL + PAGE).li(11, KERNEL + 2 * PAGE + place % PAGE)
    code.li(12, ROUNDS).li(13, table.satp(asid)).li(14, asid)
    code.li(15, pte(DATA, flags)).li(16, pte(DATA + PAGE, flags))
    code("csrrw", rd=0, csr=SATP, rs1=13).label("again")
    for new in (15, 16):
        code("sd", rs1=11, rs2=new, imm=0)
        operands = {
            "rs1": 10 if fenced in ("address", "both", "inval") else 0,
            "rs2": 14 if fenced in ("asid", "both") else 0,
        }
        if fenced == "inval":
            code("sfence.w.inval")("sinval.vma", **operands)("sfence.inval.ir")
        else:
            code("sfence.vma", **operands)
        code("ld", rd=5, rs1=10, imm=0)("add", rd=6, rs1=6, rs2=5)
    code("addi", rd=12, rs1=12, imm=-1)("bne", to="again", rs1=12, rs2=0).finish(6)
    supervisor(m, code, table)
    assert m.finish() == ROUNDS * 1001


def locked(permissions: int, start: int, size: int) -> tuple[int, int]:
    """pmpcfg and pmpaddr of a NAPOT region."""
    return 0x18 | permissions, (start | size // 2 - 1) >> 2


@pytest.mark.parametrize("permissions", [0, 1, 3, 4, 5, 7])
def test_physical_protection_of_what_was_translated(permissions: int) -> None:
    """S mode runs and reads a page; M mode then closes it, and it must not go on."""
    m = machine()
    skipping_faults(m)
    m.load(Code(DATA)("addi", rd=21, rs1=21, imm=1)("jalr", rd=0, rs1=1, imm=0))
    # Calls of the supervisor shut or open the page; faults fetching return to ra.
    handler = Code(HANDLER)("csrrs", rd=19, csr=0x342, rs1=0)("addi", rd=30, rs1=0, imm=9)
    handler("bne", to="fault", rs1=19, rs2=30)
    handler("csrrw", rd=0, csr=PMPCFG0, rs1=17)("jal", to="next", rd=0)
    handler.label("fault")("addi", rd=18, rs1=18, imm=1)("addi", rd=30, rs1=0, imm=1)
    handler("bne", to="next", rs1=19, rs2=30)
    handler("csrrw", rd=0, csr=0x341, rs1=1)("mret").label("next")
    handler("csrrs", rd=30, csr=0x341, rs1=0)("addi", rd=30, rs1=30, imm=4)
    m.load(handler("csrrw", rd=0, csr=0x341, rs1=30)("mret"))
    shut, address = locked(permissions, DATA, PAGE)
    opened, _ = locked(7, DATA, PAGE)
    m.vcpu.set("pmpaddr0", address)
    m.vcpu.set("pmpaddr1", (1 << 54) - 1)
    code = Code().li(10, DATA).li(12, ROUNDS).li(15, 0x1F00 | opened).li(16, 0x1F00 | shut)
    code.label("again")
    for config in (15, 16):
        code("addi", rd=17, rs1=config, imm=0)("ecall")
        code("jalr", rd=1, rs1=10, imm=0)
        code("addi", rd=22, rs1=0, imm=0)("ld", rd=22, rs1=10, imm=0)
        code("sltu", rd=22, rs1=0, rs2=22)("add", rd=23, rs1=23, rs2=22)
        code("sd", rs1=10, rs2=12, imm=64)
    code("addi", rd=12, rs1=12, imm=-1)("bne", to="again", rs1=12, rs2=0).finish(18)
    m.load(code)
    m.vcpu.set("pmpcfg0", 0x1F00 | opened)
    m.vcpu.set("privilege", riscv.SUPERVISOR)
    assert m.finish() == ROUNDS * (3 - permissions.bit_count())
    assert m.cpu.x[21] == ROUNDS * (1 + (permissions >> 2 & 1))
    assert m.cpu.x[23] == ROUNDS * (1 + (permissions & 1))


@pytest.mark.parametrize("enough", [0, 3, 200])
def test_code_that_runs_on_into_a_protected_part_of_its_page(enough: int) -> None:
    """The first *enough* instructions may be fetched; whatever was translated, no more are."""
    m = machine()
    code = Code(DATA)
    for _ in range(250):
        code("addi", rd=21, rs1=21, imm=1)
    m.load(code("jalr", rd=0, rs1=1, imm=0))
    handler = Code(HANDLER)("csrrs", rd=19, csr=0x342, rs1=0)("csrrs", rd=20, csr=0x341, rs1=0)
    handler("addi", rd=18, rs1=18, imm=1)("csrrw", rd=0, csr=0x341, rs1=1)
    m.load(handler("mret"))
    m.vcpu.set("mtvec", HANDLER)
    border = DATA + 4 * enough
    m.vcpu.set("pmpaddr0", border >> 2)
    m.vcpu.set("pmpaddr1", border + 4 >> 2)
    m.vcpu.set("pmpaddr2", (1 << 54) - 1)
    m.vcpu.set("pmpcfg0", 0x1F080F)  # all up to the border; nothing for a word; all behind it
    again = Code().li(10, DATA).li(12, ROUNDS).label("again")("jalr", rd=1, rs1=10, imm=0)
    again("addi", rd=12, rs1=12, imm=-1)("bne", to="again", rs1=12, rs2=0).finish(18)
    m.load(again)
    m.vcpu.set("privilege", riscv.SUPERVISOR)
    assert m.finish() == ROUNDS
    assert (m.cpu.x[19], m.cpu.x[20], m.cpu.x[21]) == (1, border, ROUNDS * enough)


@pytest.mark.parametrize("denied", [-8, -4, 0, 4])
@pytest.mark.parametrize("name", ["sd", "ld"])
def test_an_access_across_pages_into_a_protected_word(name: str, denied: int) -> None:
    """All its bytes are judged before any of them is stored."""
    m = machine()
    skipping_faults(m)
    border = DATA + PAGE
    m.write(border - 8, bytes(range(16)))
    m.vcpu.set("pmpaddr0", (border + denied) >> 2)
    m.vcpu.set("pmpaddr1", (1 << 54) - 1)
    m.vcpu.set("pmpcfg0", 0x1F10)  # NA4 that allows nothing, then everything
    code = Code().li(10, border - 4).li(11, ROUNDS).label("again")
    code(name, rs1=10, imm=0, **({"rs2": 11} if name == "sd" else {"rd": 12}))
    code("addi", rd=11, rs1=11, imm=-1)("bne", to="again", rs1=11, rs2=0).finish(18)
    m.load(code)
    m.vcpu.set("privilege", riscv.SUPERVISOR)
    faults = ROUNDS if denied in (-4, 0) else 0
    assert m.finish() == faults
    stored = (1).to_bytes(8, "little") if name == "sd" and not faults else bytes(range(4, 12))
    assert m.read(border - 4, 8) == stored


def test_writing_to_read_only_memory() -> None:
    """It can be read and run; a store is an exit, whatever was read or run before."""
    m = machine()
    base = 0x4000_0000
    ram = Ram(PAGE)
    data = Code(base)("addi", rd=6, rs1=6, imm=1)("jalr", rd=0, rs1=1, imm=0).build()
    ram.view[: len(data)] = data
    m.vm.set_memory_slot(RamRegion(base, PAGE, ram, readonly=True))
    try:
        code = Code().li(10, base).li(11, ROUNDS).label("again")
        code("jalr", rd=1, rs1=10, imm=0)("ld", rd=5, rs1=10, imm=0)
        code("addi", rd=11, rs1=11, imm=-1)("bne", to="again", rs1=11, rs2=0)
        for size, store in enumerate(("sb", "sh", "sw", "sd")):
            code(store, rs1=10, rs2=5, imm=8 << size)
        m.load(code("jalr", rd=1, rs1=10, imm=0).finish(6))
        for size in (1, 2, 4, 8):
            value = int.from_bytes(data[:size], "little")
            assert m.run() == MmioWrite(base + 8 * size, size, value)
            m.vcpu.complete(0)
        assert m.finish() == ROUNDS + 1
        assert bytes(ram.view[: len(data)]) == data
        assert not any(ram.view[len(data) :])
    finally:
        m.vm.remove_memory_slot(base)
        ram.close()


COUNTER, SHARED, RESULTS = (BASE + number * PAGE for number in (40, 48, 64))
TRIES = 1000
PATIENCE = 1 << 36
"""Instructions: harts that wait for each other run many."""


def test_store_buffering_with_fences() -> None:
    """Each hart stores, fences, reads what the other stores: never both the old values."""
    m = machine(64, 2)
    for number in range(2):
        code = Code(BASE + number * PAGE).li(10, SHARED).li(11, TRIES).li(12, RESULTS)
        code.li(13, COUNTER)("addi", rd=14, rs1=12, imm=8 * number)
        code("addi", rd=15, rs1=0, imm=1)
        # Both wait for each other, so that the tries overlap.
        code.label("again")("amoadd.d", rd=0, rs1=13, rs2=15, aq=1, rl=1)
        code("addi", rd=16, rs1=16, imm=2).label("wait")("ld", rd=5, rs1=13, imm=0)
        code("blt", to="wait", rs1=5, rs2=16)
        code("sd", rs1=10, rs2=15, imm=128 * number)("fence", pred=3, succ=3)
        code("ld", rd=6, rs1=10, imm=128 * (1 - number))("sd", rs1=14, rs2=6, imm=0)
        code("addi", rd=14, rs1=14, imm=16)("addi", rd=10, rs1=10, imm=8)
        code("andi", rd=7, rs1=10, imm=127)("bne", to="near", rs1=7, rs2=0)
        code("addi", rd=10, rs1=10, imm=128).label("near")
        code("addi", rd=11, rs1=11, imm=-1)("bne", to="again", rs1=11, rs2=0)
        m.load(code.finish())
        m.harts[number].set("pc", code.base)
    exits: list[Exit] = []
    thread = threading.Thread(target=lambda: exits.append(m.run(1, limit=PATIENCE)))
    thread.start()
    exits.append(m.run(0, limit=PATIENCE))
    thread.join(200)
    assert [leaving.address for leaving in exits if isinstance(leaving, MmioWrite)] == [END, END]
    data = m.read(RESULTS, 16 * TRIES)
    assert all(any(data[place : place + 16]) for place in range(0, len(data), 16))


@pytest.mark.parametrize("kind", ["call", "fetch", "illegal"])
def test_a_limit_ends_endless_traps(kind: str) -> None:
    """A trap is no instruction, yet counts towards the limit."""
    m = machine()
    if kind == "fetch":
        m.vcpu.set("mtvec", 0x100)
        m.vcpu.set("pc", 0x200)
    else:
        m.load(Code()("ecall") if kind == "call" else Code().raw(0, 4))
        m.vcpu.set("mtvec", BASE)
    assert isinstance(m.run(limit=20_000), Stopped)
    assert m.instructions == 0
