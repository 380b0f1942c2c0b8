"""Device trees: what is written can be read back, by us and by dtc."""

from __future__ import annotations

import contextlib
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandemu.board.device_tree import (
    DeviceTreeError,
    Node,
    Reference,
    cells64,
    flatten,
    parse,
    render,
)
from tandemu.board.riscv_virt import RiscvVirt

TREE = Node(
    "",
    {"#address-cells": 2, "compatible": ["a,b", "c"], "flag": True, "blob": b"\1\2\3"},
    (
        Node("controller", {"interrupt-controller": True}, label="pic"),
        Node("device@0", {"reg": cells64(1 << 32, 16), "wires": [Reference("pic"), 11]}),
    ),
)


def test_round_trip() -> None:
    tree = parse(flatten(TREE, boot_hart=3))
    assert tree.properties == {
        "#address-cells": bytes((0, 0, 0, 2)),
        "compatible": b"a,b\0c\0",
        "flag": b"",
        "blob": b"\1\2\3",
    }
    device = tree.find("/device@0")
    assert device is not None and device.properties["wires"] == bytes((0, 0, 0, 1, 0, 0, 0, 11))
    assert device.properties["reg"] == (1 << 96 | 16).to_bytes(16, "big")
    assert tree.find("/nothing") is None


def test_rendering() -> None:
    text = render(parse(flatten(TREE)))
    for line in ('compatible = "a,b", "c";', "flag;", "blob = [01 02 03];", "wires = <0x1 0xb>;"):
        assert line in text


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (Node("", {"a": 1 << 32}), "use cells64"),
        (Node("", {"a": Reference("x")}), "no node is labelled 'x'"),
        (Node("", {"a": "x\0y"}), "zero byte"),
        (Node("", {}, (Node("a", label="l"), Node("b", label="l"))), "two nodes"),
    ],
)
def test_mistakes(tree: Node, message: str) -> None:
    with pytest.raises(DeviceTreeError, match=message):
        flatten(tree)


@given(st.data())
def test_damaged_blobs_are_refused_or_read(data: st.DataObject) -> None:
    blob = bytearray(flatten(TREE))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DeviceTreeError):
        render(parse(bytes(blob[: data.draw(st.integers(0, len(blob)))])))


@pytest.mark.guest
@pytest.mark.skipif(shutil.which("dtc") is None, reason="dtc (device-tree-compiler) is missing")
def test_dtc_accepts_the_board() -> None:
    blob = RiscvVirt(harts=2).device_tree_blob(
        bootargs="console=ttyS0", initrd=(0x9000_0000, 0x9100_0000), random_seed=bytes(range(32))
    )
    result = subprocess.run(
        ["dtc", "-I", "dtb", "-O", "dts"], input=blob, capture_output=True, check=False
    )
    assert result.returncode == 0
    # QEMU's own tree draws this one warning, too.
    warnings = [
        line
        for line in result.stderr.decode().splitlines()
        if "Missing #address-cells in interrupt provider" not in line
    ]
    assert warnings == []
