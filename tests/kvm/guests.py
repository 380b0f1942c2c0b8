"""Small guests for KVM: RAM, one or more vCPUs, and ways to start them in each mode.

Code is written out as bytes with its assembly beside it, so that the tests need no assembler.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tandemu.accel import Exit, Interrupted
from tandemu.kvm import KvmVcpu, KvmVm, probe
from tandemu.memory import Ram, RamRegion

CODE = 0x1000
GDT, TABLES, STACK = 0x4000, 0x8000, 0x7000
IDT = 0x5000
RAM_BYTES = 1 << 20

FINDINGS = probe()
needs_kvm = pytest.mark.skipif(not FINDINGS.works, reason=FINDINGS.problem or "KVM works")


class Guest:
    """A VM with RAM from address 0 and *cpus* processors; *timer*: with the PC's timer and PIC."""

    def __init__(self, cpus: int = 1, ram_bytes: int = RAM_BYTES, *, timer: bool = False) -> None:
        self.ram = Ram(ram_bytes)
        self.vm = KvmVm(timer=timer)
        self.region = RamRegion(0, ram_bytes, self.ram)
        self.vm.set_memory_slot(self.region)
        self.vcpus = [self.vm.create_vcpu(index) for index in range(cpus)]

    @property
    def vcpu(self) -> KvmVcpu:
        return self.vcpus[0]

    def put(self, address: int, data: bytes) -> None:
        self.ram.view[address : address + len(data)] = data

    def real(self, code: str, at: int = CODE) -> KvmVcpu:
        """Real mode, at *code* (in hexadecimal)."""
        self.put(at, bytes.fromhex(code))
        vcpu = self.vcpu
        vcpu.set("cs.base", 0)
        vcpu.set("cs", 0)
        vcpu.set("rip", at)
        vcpu.set("rsp", STACK)
        vcpu.set("rflags", 2)
        return vcpu

    def _flat(self, *, long: bool) -> dict[str, int]:
        """A descriptor table in memory, and the registers of flat segments."""
        registers = {"gdt.base": GDT, "gdt.limit": 23}
        for name, selector, kind in (("cs", 8, 0xB), *((s, 16, 3) for s in ("ds", "es", "ss"))):
            wide = long and name == "cs"
            fields = {
                "base": 0,
                "limit": 0xFFFF_FFFF,
                "selector": selector,
                "type": kind,
                "present": 1,
                "dpl": 0,
                "db": int(not wide),
                "s": 1,
                "l": int(wide),
                "g": 1,
            }
            registers |= {f"{name}.{field}": value for field, value in fields.items()}
        code = 0x00AF_9B00_0000_FFFF if long else 0x00CF_9B00_0000_FFFF
        self.put(GDT, b"".join(n.to_bytes(8, "little") for n in (0, code, 0x00CF_9300_0000_FFFF)))
        return registers

    def protected(self, code: str) -> KvmVcpu:
        """32-bit protected mode without paging."""
        vcpu = self.real(code)
        vcpu.set_many({**self._flat(long=False), "cr0": 0x11})
        return vcpu

    def long(self, code: str) -> KvmVcpu:
        """64-bit mode, the first and the fourth GiB mapped onto themselves in 2 MiB pages."""
        vcpu = self.real(code)
        self.put(TABLES, (TABLES + 0x1000 | 3).to_bytes(8, "little"))
        for number, gib in enumerate((0, 3)):
            table = TABLES + 0x2000 + 0x1000 * number
            self.put(TABLES + 0x1000 + 8 * gib, (table | 3).to_bytes(8, "little"))
            entries = (gib << 30 | page << 21 | 0x83 for page in range(512))
            self.put(table, b"".join(entry.to_bytes(8, "little") for entry in entries))
        # At once, as KVM refuses long mode by halves; cr4: PAE and SSE.
        system = {"cr0": 0x8005_0033, "cr3": TABLES, "cr4": 0x620, "efer": 0x500}
        vcpu.set_many({**self._flat(long=True), **system})
        return vcpu

    def close(self) -> None:
        self.vm.close()
        self.ram.close()


@contextmanager
def guest(cpus: int = 1, ram_bytes: int = RAM_BYTES, *, timer: bool = False) -> Iterator[Guest]:
    made = Guest(cpus, ram_bytes, timer=timer)
    try:
        yield made
    finally:
        made.close()


def run(vcpu: KvmVcpu) -> Exit:
    """Run to an exit that is none of a signal's."""
    while isinstance(exit := vcpu.run(), Interrupted):
        pass
    return exit
