"""Whole programs of Debian under `tandemu exec` and qemu-riscv64: what people run.

One process each, for qemu-riscv64 starts no other foreign programs without binfmt_misc;
so gcc is its compiler proper. The work is fixed, and a run under QEMU takes some seconds.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.case import QEMU, ROOT, TANDEMU, Case, Command, Missing, tandemu
from benchmarks.programs import check_command
from benchmarks.sysroot import unpack
from tandemu.guests import GuestError

GROUPS = ("python", "node", "compress", "openssl", "sqlite", "gcc")
SCRIPTS = ROOT / "benchmarks" / "applications"
TEXT_BYTES = 100_000_000
PACKERS = {"gzip": "-kf", "xz": "-0kfT1"}
"""Programs that compress the text, and how; xz's default would take QEMU three minutes."""
ZERO_BYTES = 500_000_000
COMPILED_FUNCTIONS = 50
_WORDS = 5000
_PYTHON = "/usr/bin/python3.13"
_CC1 = "/usr/libexec/gcc/riscv64-linux-gnu/14/cc1"


def commands(sysroot: Path, program: str | Path, *arguments: str | Path) -> dict[str, Command]:
    """Run the dynamic *program* of *sysroot* under both."""
    rival = shutil.which("qemu-riscv64") or "qemu-riscv64"
    words = (*map(str, arguments),)
    return {
        TANDEMU: tandemu("exec", "-L", sysroot, program, *words),
        QEMU: Command((rival, "-L", str(sysroot), f"{sysroot}{program}", *words)),
    }


def text(size: int) -> bytes:
    """*size* bytes that compress like prose: words that are frequent by rank."""
    numbers = random.Random(2026)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(numbers.choices(letters, k=numbers.randrange(2, 10))) for _ in range(_WORDS)]
    weights = [1 / (rank + 3) for rank in range(_WORDS)]
    # Beyond the first chunk pieces of it are repeated, farther apart than gzip looks back.
    chunk = " ".join(numbers.choices(words, weights, k=1_000_000)).encode()
    made = bytearray(chunk)
    while len(made) < size:
        start = numbers.randrange(len(chunk) // 2)
        made += chunk[start : start + numbers.randrange(100_000, 1_000_000)]
    return bytes(made[:size])


def c_source(functions: int) -> str:
    """A C file of many functions with loops, branches, arrays and calls, each different."""
    numbers = random.Random(2026)
    lines = ["struct node { struct node *next; long value[8]; double weight; };"]
    for index in range(functions):
        a, b, c = (numbers.randrange(3, 1000) for _ in range(3))
        callee = f"function_{numbers.randrange(index)}(list, x - 1)" if index else "x"
        lines += [
            f"long function_{index}(struct node *list, long x) {{",
            f"    long table[{a % 29 + 4}], sum = {c};",
            "    double weight = 0;",
            f"    for (unsigned i = 0; i < sizeof table / sizeof *table; i++)"
            f" table[i] = (x * {a} + i * {b}) ^ (sum >> {b % 13});",
            "    for (struct node *n = list; n; n = n->next) {",
            f"        switch (n->value[{a % 8}] % {b % 7 + 3}) {{",
            f"        case 0: sum += n->value[{b % 8}] * {c}; break;",
            f"        case 1: sum ^= table[(unsigned long)sum % {a % 4 + 1}] / (x | 1); break;",
            f"        case 2: if (sum > {a}) continue; sum -= {callee}; break;",
            f"        default: weight += n->weight * {b}.5; n->value[{c % 8}] = sum;",
            "        }",
            "    }",
            f"    return sum + (long)weight % {c};",
            "}",
        ]
    return "\n".join([*lines, ""])


def programs(folder: Path) -> Path:
    """The sysroot in *folder*, with the programs unpacked."""
    check_command()
    sysroot = folder / "sysroot"
    if not sysroot.exists():
        sysroot.mkdir()
        try:
            unpack(sysroot, GROUPS)
        except GuestError as error:
            raise Missing(str(error)) from error
    return sysroot


def words_of(name: str, folder: Path) -> tuple[str | Path, ...]:
    """The program of *name* and its arguments, of those that memory is measured of too."""
    if name == "python":
        return _PYTHON, "-E", SCRIPTS / "work.py"
    if name == "sqlite":
        return "/usr/bin/sqlite3", ":memory:", f".read {SCRIPTS / 'million.sql'}"
    (folder / "large.c").write_text(c_source(COMPILED_FUNCTIONS), encoding="ascii")
    return _CC1, "-quiet", "-O2", folder / "large.c", "-o", folder / "large.s"


def memory_cases(folder: Path) -> Iterator[Case]:
    """What the optimiser takes of memory, and the process that compiles."""
    sysroot = programs(folder)
    for name in ("python", "sqlite", "gcc"):
        program = tandemu("exec", "-L", sysroot, *words_of(name, folder))
        words = (sys.executable, "-m", "benchmarks.optimiser_memory", *program.arguments)
        yield Case("memory", name, {TANDEMU: Command(words)}, expect="metric more_mib", once=True)


def cases(folder: Path) -> Iterator[Case]:
    """Make the programs' input, and name the work."""
    sysroot = programs(folder)

    def case(name: str, program: str | Path, *arguments: str | Path, expect: str = "") -> Case:
        words = commands(sysroot, program, *arguments)
        # Two, for QEMU as for Tandemu, whose compiler works beside the guest.
        return Case("programs", name, words, expect=expect, cores=2)

    yield case("python", *words_of("python", folder), expect="checksum 62073999")
    yield case("node", "/usr/bin/node", SCRIPTS / "work.js", expect="checksum 832040 ")
    (folder / "text").write_bytes(text(TEXT_BYTES))
    for name, how in PACKERS.items():
        yield case(name, f"/usr/bin/{name}", how, folder / "text")
    zeros = folder / "zeros"
    zeros.touch()
    with zeros.open("r+b") as file:
        file.truncate(ZERO_BYTES)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    yield case("openssl-sha256", "/usr/bin/openssl", "dgst", "-sha256", zeros, expect=digest)
    yield case("sqlite", *words_of("sqlite", folder), expect="1000000|")
    yield case("gcc", *words_of("gcc", folder))
