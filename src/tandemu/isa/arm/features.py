"""What this processor has, once: identification registers and Linux's HWCAP come from here.

Arm ARM, D24.2 (ID_AA64…_EL1). Plain numbers.
"""

from __future__ import annotations

from typing import NamedTuple


class Feature(NamedTuple):
    """A value in a field of an identification register, and how Linux tells programs of it."""

    name: str
    register: int
    """The low bits of its number: CRm << 3 | op2."""
    low: int
    value: int
    hwcap: int = 0
    hwcap2: int = 0
    cpuinfo: str = ""


PFR0, ISAR0, ISAR1, ISAR2, MMFR2 = 0x20, 0x30, 0x31, 0x32, 0x3A

FEATURES: tuple[Feature, ...] = (
    Feature("EL0 in AArch64", PFR0, 0, 1),
    Feature("EL1 in AArch64", PFR0, 4, 1),
    Feature("FP", PFR0, 16, 0, 1 << 0, 0, "fp"),
    Feature("AdvSIMD", PFR0, 20, 0, 1 << 1, 0, "asimd"),
    Feature("CRC32", ISAR0, 16, 1, 1 << 7, 0, "crc32"),
    Feature("FlagM2", ISAR0, 52, 2, 1 << 27, 1 << 7, "flagm flagm2"),
    Feature("LRCPC2", ISAR1, 20, 2, 1 << 15 | 1 << 26, 0, "lrcpc ilrcpc"),
    Feature("DPB2", ISAR1, 0, 2, 1 << 16, 1 << 0, "dcpop dcpodp"),
    Feature("SB", ISAR1, 36, 1, 1 << 29, 0, "sb"),
)
HWCAP_CPUID = 1 << 11
"""Programs may read identification registers."""

MIDR = 0x410FD034
"""Cortex-A53 r0p4: a processor without the work-arounds that wider ones need."""


def _registers() -> dict[int, int]:
    found: dict[int, int] = {0x00: MIDR, 0x05: 1 << 31, 0x06: 0}
    for one in FEATURES:
        found[one.register] = found.get(one.register, 0) | one.value << one.low
    return {(1 << 14) | number: value for number, value in found.items()}


IDENTIFICATION = _registers()
"""What the registers of op1 0, CRn 0 hold, by their number in MRS."""
HWCAP = HWCAP_CPUID | sum(one.hwcap for one in FEATURES)
HWCAP2 = sum(one.hwcap2 for one in FEATURES)
NAMES = " ".join(one.cpuinfo for one in FEATURES if one.cpuinfo)
