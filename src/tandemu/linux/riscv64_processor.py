"""What a program is told of its processor: riscv_hwprobe(2) and /proc/cpuinfo of riscv64.

Numbers are those of Linux's uapi asm/hwprobe.h. Extensions of the privileged architecture
are left out: a program has nothing of them. The auxiliary vector's AT_HWCAP has room for
extensions of a single letter only.
"""

from __future__ import annotations

LETTERS = "imafdc"
NAMED = (
    *("zicbom", "zicboz", "zicntr", "zicond", "zicsr", "zifencei", "zihintpause", "zihpm"),
    *("zba", "zbb", "zbs"),
)
"""Further extensions, in the order in which Linux prints them."""

ISA = "rv64" + LETTERS + "".join(f"_{name}" for name in NAMED)
HARDWARE_CAPABILITIES = sum(1 << (ord(letter) - ord("a")) for letter in LETTERS)
CPUINFO = (
    f"processor\t: {{number}}\nhart\t\t: {{number}}\nisa\t\t: {ISA}\nmmu\t\t: sv39\n"
    f"mvendorid\t: 0x0\nmarchid\t\t: 0x0\nmimpid\t\t: 0x0\nhart isa\t: {ISA}\n\n"
)
"""One processor of /proc/cpuinfo."""

EXTENSION_BITS = {
    "fd": 0, "c": 1, "zba": 3, "zbb": 4, "zbs": 5, "zicboz": 6, "zicond": 35, "zihintpause": 36,
    "zicntr": 50, "zihpm": 51, "zicbom": 55,
}  # fmt: skip
"""Bits of RISCV_HWPROBE_KEY_IMA_EXT_0. I, M and A are the base; Linux names no others of ours."""

EXTENSIONS_KEY = 4
_VENDOR, _ARCHITECTURE, _IMPLEMENTATION, _BASE, _SPEED = 0, 1, 2, 3, 5
_ZERO_BLOCK, _HIGHEST_ADDRESS, _TIME_FREQUENCY, _SCALAR_SPEED, _VECTOR_SPEED = 6, 7, 8, 9, 10
_CLEAN_BLOCK = 12
_IMA, _FAST, _UNSUPPORTED = 1, 3, 4
_BLOCK_SIZE = 64
_TIMEBASE_HZ = 10_000_000

BIT_SETS = frozenset((_BASE, EXTENSIONS_KEY))
"""Keys whose values are sets of bits: asking for some of them is enough to match."""


def probe(window_size: int) -> dict[int, int]:
    """The values of all known keys. *window_size*: where the program's addresses end."""
    return {
        _VENDOR: 0,
        _ARCHITECTURE: 0,
        _IMPLEMENTATION: 0,
        _BASE: _IMA,
        EXTENSIONS_KEY: sum(1 << bit for bit in EXTENSION_BITS.values()),
        # A misaligned access is the host's own, which takes it in its stride.
        _SPEED: _FAST,
        _ZERO_BLOCK: _BLOCK_SIZE,
        _HIGHEST_ADDRESS: window_size - 1,
        _TIME_FREQUENCY: _TIMEBASE_HZ,
        _SCALAR_SPEED: _FAST,
        _VECTOR_SPEED: _UNSUPPORTED,
        _CLEAN_BLOCK: _BLOCK_SIZE,
    }
