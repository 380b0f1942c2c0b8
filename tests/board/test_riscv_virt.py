"""The board's value, its tree against QEMU's, its drawing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tandemu.board import BoardError, RiscvVirt
from tandemu.board.device_tree import Node, parse
from tandemu.board.riscv_parts import RAM_BASE, entries


@pytest.mark.parametrize("messages", [False, True])
def test_parts_do_not_overlap(messages: bool) -> None:
    ends = 0
    parts = [entry.part for entry in entries(RiscvVirt(messages=messages))]
    for part in sorted(parts, key=lambda part: part.base):
        assert part.base >= ends
        ends = part.end
    assert ends <= RAM_BASE


def test_drawing() -> None:
    lines = RiscvVirt().drawing().splitlines()
    assert lines[0] == "0x0000001000  0x000000ffff    60 KiB  boot ROM"
    assert "0x0010001000  0x0010008fff     4 KiB  8 x virtio slot  interrupt 1 to 8" in lines
    assert lines[-2] == "0x0080000000  0x009fffffff   512 MiB  RAM"
    assert lines[-1] == "0x0400000000  0x07ffffffff    16 GiB  PCIe high memory"


@pytest.mark.parametrize(
    "arguments",
    [{"xlen": 16}, {"harts": 0}, {"harts": 513}, {"memory_bytes": 5}, {"memory_bytes": 1 << 60}],
)
def test_impossible_boards(arguments: dict[str, int]) -> None:
    with pytest.raises(BoardError, match="must be"):
        RiscvVirt(**arguments)  # type: ignore[arg-type]


def test_tree_follows_the_board() -> None:
    board = RiscvVirt(harts=3, xlen=32, extensions=("i", "m", "zba", "zicbom", "sstc"), mmu="sv32")
    tree = parse(board.device_tree_blob(bootargs="quiet"))
    cpu = tree.find("/cpus/cpu@2")
    assert cpu is not None
    assert cpu.properties["riscv,isa"] == b"rv32im_zba_zicbom_sstc\0"
    assert cpu.properties["riscv,isa-base"] == b"rv32i\0"
    assert cpu.properties["riscv,isa-extensions"] == b"i\0m\0zba\0zicbom\0sstc\0"
    assert cpu.properties["riscv,cbom-block-size"] == (64).to_bytes(4, "big")
    assert "riscv,cboz-block-size" not in cpu.properties
    assert cpu.properties["mmu-type"] == b"riscv,sv32\0"
    chosen = tree.find("/chosen")
    assert chosen is not None and chosen.properties["bootargs"] == b"quiet\0"
    plic = tree.find("/soc/plic@c000000")
    assert plic is not None and len(bytes(plic.properties["interrupts-extended"])) == 3 * 2 * 8  # type: ignore[arg-type]


LEFT_OUT = {
    "/fw-cfg@10100000",
    "/platform-bus@4000000",
    "/pmu",
}
OURS = {"model", "phandle", "rng-seed", "mmu-type"}
REFERENCES = {"interrupt-parent", "interrupts-extended", "regmap", "cpu", "interrupt-map"}


def flat(node: Node, path: str = "") -> dict[str, Node]:
    """All nodes by path."""
    nodes = {path or "/": node}
    for child in node.children:
        nodes |= flat(child, f"{path}/{child.name}")
    return nodes


@pytest.mark.guest
@pytest.mark.skipif(shutil.which("qemu-system-riscv64") is None, reason="no qemu-system-riscv64")
def test_tree_agrees_with_qemu(tmp_path: Path) -> None:
    dump = tmp_path / "virt.dtb"
    subprocess.run(
        ["qemu-system-riscv64", "-M", f"virt,dumpdtb={dump}", "-smp", "2", "-m", "512"],
        check=True,
        capture_output=True,
    )
    theirs = flat(parse(dump.read_bytes()))
    ours = flat(parse(RiscvVirt(harts=2).device_tree_blob()))
    assert theirs.keys() - ours.keys() == LEFT_OUT
    assert ours.keys() <= theirs.keys()
    for path, node in ours.items():
        for name, value in node.properties.items():
            if name in OURS or name.startswith("riscv,isa"):
                continue
            other = theirs[path].properties[name]
            if name in REFERENCES:
                # Phandles are numbered differently; the cells between them must agree.
                assert len(bytes(other)) == len(bytes(value)), (path, name)  # type: ignore[arg-type]
                assert bytes(other)[7::8] == bytes(value)[7::8], (path, name)  # type: ignore[arg-type]
            else:
                assert other == value, (path, name)
