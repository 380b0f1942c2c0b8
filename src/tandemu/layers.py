"""The packages of Tandemu in import order: the one place that holds it.

A package imports only packages that stand below it. ``tests/test_layers.py`` walks the
imports and fails on one that points upward; the picture in ARCHITECTURE.md is what
``python -m tandemu.layers`` prints, and the same test compares the two.

This module imports nothing of Tandemu's and is imported by nothing but its test.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Package:
    """One package: its *name* under ``tandemu``, what it *holds*, and stricter rules.

    *apart_from* names packages below this one, or rooms of them, that it must not import all the
    same. *rooms* are its subpackages in import order, lowest first: a room imports no room above
    it. The empty name among them is that of the modules that stand directly in the package;
    without it those have no rank.
    """

    name: str
    holds: str
    apart_from: frozenset[str] = frozenset()
    rooms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Floor:
    """Neighbouring packages that answer one question, in import order, lowest first."""

    title: str
    packages: tuple[Package, ...]


FLOORS: tuple[Floor, ...] = (
    Floor(
        "ground floor",
        (
            Package("bits", "fields, sign extension, layouts of structures, records"),
            Package("memory", "guest RAM and the one door to it, dirty logs, the map of devices"),
        ),
    ),
    Floor(
        "what code means",
        (
            Package("ir", "the embedded language: values, ops, verifier, evaluator, LLVM"),
            Package(
                "isa",
                "instruction records, decoders, semantics, privileged state",
                rooms=("", "arm", "riscv"),
            ),
        ),
    ),
    Floor(
        "what runs it",
        (
            Package("native", "LLVM IR to machine code: compile, link, keep on disk"),
            Package("slots", "guest memory in generated code: finding it, noting writes"),
            Package("accel", "the protocol in KVM's shape: Vm, Vcpu, Exit"),
            Package(
                "jit",
                "stencils, translator, dispatcher, TLB, code cache, vCPU",
                rooms=(
                    "shared",
                    "memory",
                    "translate",
                    "run",
                    "engine",
                    "regions",
                    "machine",
                    "program",
                ),
                apart_from=frozenset({"isa.arm", "isa.riscv"}),
            ),
            Package(
                "kvm",
                "KVM's calls and structures: system, VM, vCPU; CPU models",
                apart_from=frozenset({"ir", "isa", "native", "slots", "jit"}),
            ),
        ),
    ),
    Floor(
        "what a machine is made of",
        (
            Package("debug", "GDB's protocol, registers and page tables for debuggers"),
            Package(
                "net",
                "networks: NAT without root, captures, policy, the link to a card",
                rooms=("", "user"),
                apart_from=frozenset(
                    {"memory", "ir", "isa", "native", "slots", "accel", "jit", "kvm"}
                ),
            ),
            Package(
                "device",
                "device models: offsets, interrupt lines, a memory view",
                apart_from=frozenset({"accel", "jit", "kvm"}),
                rooms=("", "pci", "virtqueue", "virtio"),
            ),
            Package(
                "host",
                "what the host lends: terminal, disk images, folders, event loop",
                rooms=("disk", "share"),
            ),
            Package("board", "boards as values; the device tree computed from them"),
            Package("firmware", "the built-in SBI"),
            Package("guests", "kernels and images: fetching, verifying, building"),
            Package(
                "linux",
                "foreign programs: ELF, system calls, signals, threads",
                rooms=("proc", "calls", "native"),
            ),
        ),
    ),
    Floor(
        "what a person touches",
        (
            Package("machine", "putting it together; lifecycle; the console in Python"),
            Package("cli", "the command line"),
        ),
    ),
)

PACKAGES: tuple[Package, ...] = tuple(package for floor in FLOORS for package in floor.packages)
"""Every package, lowest first."""

ABOVE_ALL: frozenset[str] = frozenset({"__init__", "__main__"})
"""Modules directly in ``tandemu`` that may import any package (lazily, in ``__init__``)."""

IMPORTS_WHEN_USED: frozenset[str] = frozenset({"cli", "__init__"})
"""Where any import may stand inside a function: ``--help`` loads no engine."""

LOADED_WHEN_USED: frozenset[str] = frozenset(
    {"difflib", "hashlib", "llvmlite", "rich", "zstandard"}
)
"""Libraries any module may import inside a function, because loading them takes long."""

MODULES_WHEN_USED: frozenset[str] = frozenset(
    {
        "tandemu.linux.caller",
        "tandemu.linux.native.generate",
        "tandemu.accel.profile",
        "tandemu.accel.statistics",
        "tandemu.device.virtqueue.generate",
        "tandemu.guests",
        "tandemu.guests.symbols",
        "tandemu.host.disk.foreign.vdi",
        "tandemu.host.disk.foreign.vhd",
        "tandemu.host.disk.foreign.vhdx",
        "tandemu.host.disk.foreign.vmdk",
        "tandemu.host.disk.nbd.client",
        "tandemu.host.disk.nbd.protocol",
        "tandemu.host.disk.qcow2.opening",
        "tandemu.jit.engine.generate",
        "tandemu.jit.regions.profile",
        "tandemu.jit.engine.software",
        "tandemu.jit.engine.user_program",
        "tandemu.linux.code_names",
        "tandemu.machine.attached",
        "tandemu.machine.cards",
        "tandemu.net.errors",
        "tandemu.debug.server",
        "tandemu.machine.debug_commands",
        "tandemu.machine.debugging",
        "tandemu.native",
        "tandemu.slots.generate",
    }
)
"""Modules of ours of which the same holds: a machine with files of its own fetches no guest,
one without disks has no virtio, and under KVM little is compiled."""


def picture(floors: tuple[Floor, ...] = FLOORS) -> str:
    """Return the layers as text, the highest floor first; imports point downward.

    >>> print(picture((Floor("low", (Package("a", "one"), Package("bc", "two"))),)))
    low
        bc  two
        a   one
    """
    width = max(len(package.name) for floor in floors for package in floor.packages)
    blocks = [
        "\n".join(
            [floor.title]
            + [
                f"    {package.name:<{width}}  {package.holds}"
                for package in reversed(floor.packages)
            ]
        )
        for floor in reversed(floors)
    ]
    rule = "\n" + "─" * max(len(line) for block in blocks for line in block.splitlines()) + "\n"
    return rule.join(blocks)


if __name__ == "__main__":
    print(picture())
