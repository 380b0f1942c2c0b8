"""Run as a program: guests of random bytes and instructions, in every mode and state.

Prints each seed before it is run, so that whoever started this knows which one
brought the process down.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from functools import cache

from tandemu.accel import MmioRead, MmioWrite, Stopped
from tests.jit.page_tables import TABLES
from tests.jit.random_code import random_operands
from tests.jit.small_machine import (
    BASE,
    PAGE,
    SIZE,
    SmallMachine,
    machine,
    program,
    random_float,
    random_value,
)

CSRS = ("mstatus", "mtvec", "stvec", "mepc", "sepc", "medeleg", "mideleg", "mie", "satp")
CSRS += ("menvcfg", "senvcfg", "mcounteren", "scounteren", "fcsr", "pmpcfg0", "pmpaddr0")
CSRS += ("pmpaddr1", "stimecmp", "sscratch", "mscratch", "mcountinhibit")


def random_address(chance: random.Random) -> int:
    place = chance.choice((BASE, BASE + PAGE, TABLES, BASE + SIZE - PAGE, 0x1000_0000))
    return place + chance.choice((0, 4, 8, PAGE - 2, PAGE - 1, chance.randrange(PAGE)))


CHUNK = 512


@cache
def chunks(xlen: int) -> tuple[bytes, ...]:
    """Pieces that guests are made of: making new ones for each takes longer than running it."""
    chance = random.Random(xlen)
    return tuple(random_bytes(chance, xlen, CHUNK) for _ in range(200))


def random_page(chance: random.Random, xlen: int) -> bytes:
    pieces = chance.choices(chunks(xlen), k=PAGE // CHUNK + 1)
    start = chance.choice((0, 2))
    return b"".join(pieces)[start : start + PAGE]


def random_bytes(chance: random.Random, xlen: int, size: int) -> bytes:
    """Valid instructions, words and halves in a mixture of its own."""
    isa = program(xlen).instructions
    records = [one for one in isa.records if one.name != "wfi"]
    data = bytearray()
    share = chance.choice((0, 50, 90, 99))
    numbers = (0x300, 0x344, 0x304, 0x180, 0x100, 0x302, 0x303, 0x305, 0x3A0, 0x3B0, 0x14D, 1, 2, 3)
    while len(data) < size:
        if chance.randrange(100) >= share:
            data += chance.randbytes(chance.choice((2, 4)))
            continue
        one = chance.choice(records)
        operands = random_operands(chance, one)
        if "rs1" in operands and chance.randrange(3):
            operands["rs1"] = chance.randrange(8, 16)
        if "csr" in operands and chance.randrange(4):
            operands["csr"] = chance.choice(numbers)
        data += one.encode(operands).to_bytes(4, "little")
    return bytes(data[:size])


def begin(chance: random.Random, m: SmallMachine) -> None:
    for page in range(4):
        m.write(BASE + page * PAGE, random_page(chance, m.xlen))
    m.write(BASE + SIZE - PAGE, random_page(chance, m.xlen))
    entries = bytearray()
    for _ in range(512):
        target = chance.choice((BASE, BASE + PAGE, BASE + 2 * PAGE, TABLES, TABLES, 0x1000_0000))
        flags = chance.choice((0x01, 0x01, 0xCF, 0xDF, 0xCF, 0x4B, 0xFF, chance.randrange(256)))
        entry = target >> 12 << 10 | flags
        entries += (entry & 0xFFFFFFFF).to_bytes(4, "little") if m.xlen == 32 else b""
        entries += entry.to_bytes(8, "little") if m.xlen == 64 else b""
    m.write(TABLES, bytes(entries))
    for number in range(1, 32):
        kind = chance.randrange(3)
        value = random_address(chance) if kind else random_value(chance, m.xlen)
        m.cpu.x[number] = value
        m.cpu.f[number] = random_float(chance)
    for name in CSRS:
        value = chance.getrandbits(m.xlen)
        if name in ("mtvec", "stvec", "mepc", "sepc"):
            value = random_address(chance) & ~3 | chance.getrandbits(1)
        elif name == "satp":
            mode = chance.choice((0, 8, 9) if m.xlen == 64 else (0, 1))
            value = mode << (60 if m.xlen == 64 else 31) | TABLES >> 12
        elif name.startswith("pmp") and chance.randrange(3):
            value = 0x1F if name == "pmpcfg0" else (1 << 54) - 1
        m.vcpu.set(name, value)
    m.vcpu.set("privilege", chance.choice((0, 1, 3)))
    m.vcpu.set("pc", random_address(chance))


def play(m: SmallMachine, seed: int) -> None:
    chance = random.Random(seed)
    m.reset()
    begin(chance, m)
    for _ in range(12):
        m.vcpu.limit_instructions(2000)
        leaving = m.vcpu.run() if chance.randrange(8) else m.vcpu.step()
        if isinstance(leaving, MmioRead):
            m.vcpu.complete(chance.choice((None, chance.getrandbits(64))))
        elif isinstance(leaving, MmioWrite):
            m.vcpu.complete(chance.choice((None, 0)))
        elif isinstance(leaving, Stopped) and chance.randrange(4) == 0:
            m.vcpu.set_interrupt(chance.choice((1, 3, 5, 7, 9, 11)), bool(chance.getrandbits(1)))


def main() -> None:
    first, count = int(sys.argv[1]), int(sys.argv[2])
    # A trap handler that faults retires nothing: only a kick ends that.
    machines = (machine(64), machine(32))

    def kick() -> None:
        while True:
            time.sleep(0.001)
            for one in machines:
                one.vcpu.kick()

    threading.Thread(target=kick, daemon=True).start()
    for seed in range(first, first + count):
        print(seed, flush=True)
        play(machine(32 if seed % 4 == 3 else 64), seed)
    print("alive", flush=True)


if __name__ == "__main__":
    main()
