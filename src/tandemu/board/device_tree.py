"""Flattened device trees: Devicetree Specification 0.4, chapter 5 (version 17 of the format).

A tree is a value: `Node`s with properties and children. `flatten` writes the
blob a kernel takes, `parse` reads one back (every property as bytes), `render`
prints one in source form. Left out: writing other versions, overlays.

>>> tree = Node("", {"compatible": "toy", "#address-cells": 1, "link": Reference("cpu")},
...             (Node("cpu@0", {"reg": 0}, label="cpu"),))
>>> print(render(parse(flatten(tree))))
/ {
    compatible = "toy";
    #address-cells = <0x1>;
    link = <0x1>;
    cpu@0 {
        reg = <0x0>;
        phandle = <0x1>;
    };
};
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from tandemu.bits import Record, align_up
from tandemu.board.errors import DeviceTreeError

_MAGIC = 0xD00DFEED
_VERSION, _COMPATIBLE_VERSION = 17, 16
_HEADER = struct.Struct(">10I")
_BEGIN_NODE, _END_NODE, _PROPERTY, _NOP, _END = 1, 2, 3, 4, 9
_DEEPEST = 64


class Reference(Record):
    """The phandle of the node with this label, as one cell."""

    label: str


Cell = int | Reference
Value = bool | int | str | bytes | Reference | Sequence[Cell] | Sequence[str]
"""True: an empty property; integers and references: 32-bit cells; strings: zero-terminated."""


class Node(Record):
    """A node. *label* is for references to it; nodes that have one get a phandle."""

    name: str
    properties: Mapping[str, Value] = MappingProxyType({})
    children: tuple[Node, ...] = ()
    label: str = ""

    def walk(self) -> Iterator[Node]:
        """This node and all below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()

    def find(self, path: str) -> Node | None:
        """The node at an absolute *path*."""
        node = self
        for name in filter(None, path.split("/")):
            below = [child for child in node.children if child.name == name]
            if not below:
                return None
            node = below[0]
        return node


def cells64(*values: int) -> list[int]:
    """Each value as two cells, the high one first."""
    return [half for value in values for half in (value >> 32, value & 0xFFFF_FFFF)]


def flatten(root: Node, *, boot_hart: int = 0) -> bytes:
    """Return the blob of the tree under *root*."""
    phandles: dict[str, int] = {}
    for node in root.walk():
        if node.label in phandles:
            raise DeviceTreeError(f"two nodes are labelled {node.label!r}")
        if node.label:
            phandles[node.label] = len(phandles) + 1
    writer = _Writer(phandles)
    writer.node(root)
    structure = writer.structure + struct.pack(">I", _END)
    reservations = _HEADER.size
    reservations = align_up(reservations, 8)
    structure_at = reservations + 16
    strings_at = structure_at + len(structure)
    header = _HEADER.pack(
        _MAGIC,
        strings_at + len(writer.strings),
        structure_at,
        strings_at,
        reservations,
        _VERSION,
        _COMPATIBLE_VERSION,
        boot_hart,
        len(writer.strings),
        len(structure),
    )
    return header.ljust(structure_at, b"\0") + bytes(structure) + bytes(writer.strings)


class _Writer:
    def __init__(self, phandles: dict[str, int]) -> None:
        self.phandles = phandles
        self.structure = bytearray()
        self.strings = bytearray()
        self.names: dict[str, int] = {}

    def node(self, node: Node) -> None:
        self.structure += struct.pack(">I", _BEGIN_NODE)
        self._padded(node.name.encode() + b"\0")
        for name, value in node.properties.items():
            self._property(name, self._encode(name, value))
        if node.label:
            self._property("phandle", struct.pack(">I", self.phandles[node.label]))
        for child in node.children:
            self.node(child)
        self.structure += struct.pack(">I", _END_NODE)

    def _property(self, name: str, value: bytes) -> None:
        if name not in self.names:
            self.names[name] = len(self.strings)
            self.strings += name.encode() + b"\0"
        self.structure += struct.pack(">III", _PROPERTY, len(value), self.names[name])
        self._padded(value)

    def _padded(self, data: bytes) -> None:
        self.structure += data.ljust(align_up(len(data), 4), b"\0")

    def _encode(self, name: str, value: Value) -> bytes:
        if isinstance(value, bytes):
            return value
        if isinstance(value, str):
            return self._string(name, value)
        if value is True:
            return b""
        if isinstance(value, int | Reference):
            value = [value]
        return b"".join(
            self._string(name, item) if isinstance(item, str) else self._cell(name, item)
            for item in value
        )

    def _string(self, name: str, value: str) -> bytes:
        if "\0" in value:
            raise DeviceTreeError(f"property {name}: a string may not hold a zero byte")
        return os.fsencode(value) + b"\0"

    def _cell(self, name: str, value: Cell) -> bytes:
        if isinstance(value, Reference):
            if value.label not in self.phandles:
                raise DeviceTreeError(f"property {name}: no node is labelled {value.label!r}")
            value = self.phandles[value.label]
        if not 0 <= value < 1 << 32:
            raise DeviceTreeError(f"property {name}: {value:#x} is not a cell; use cells64")
        return struct.pack(">I", value)


def parse(blob: bytes | memoryview) -> Node:
    """Read a blob back: a tree in which every property is bytes."""
    data = bytes(blob)
    if len(data) < _HEADER.size:
        raise DeviceTreeError(f"a device tree of {len(data)} bytes is shorter than its header")
    header = _HEADER.unpack_from(data)
    magic, total, structure_at, strings_at, _, version, compatible, _, strings, structure = header
    if magic != _MAGIC:
        raise DeviceTreeError(f"not a device tree: begins with {magic:#010x}, not {_MAGIC:#x}")
    if compatible > _VERSION or version < _COMPATIBLE_VERSION:
        raise DeviceTreeError(f"device tree of version {version}: must be {_VERSION}")
    if max(total, structure_at + structure, strings_at + strings) > len(data):
        raise DeviceTreeError("the device tree is truncated")
    reader = _Reader(
        data[structure_at : structure_at + structure], data[strings_at : strings_at + strings]
    )
    try:
        return reader.tree()
    except (struct.error, ValueError) as error:
        raise DeviceTreeError(f"the device tree is damaged: {error}") from None


class _Reader:
    def __init__(self, structure: bytes, strings: bytes) -> None:
        self.structure = structure
        self.strings = strings
        self.position = 0

    def tree(self) -> Node:
        if self._token() != _BEGIN_NODE:
            raise ValueError("it does not begin with a node")
        return self._node(0)

    def _word(self) -> int:
        (value,) = struct.unpack_from(">I", self.structure, self.position)
        self.position += 4
        return int(value)

    def _token(self) -> int:
        token = self._word()
        while token == _NOP:
            token = self._word()
        return token

    def _node(self, depth: int) -> Node:
        if depth > _DEEPEST:
            raise ValueError(f"nodes nest deeper than {_DEEPEST}")
        name = _string(self.structure, self.position)
        self.position = align_up(self.position + len(name) + 1, 4)
        properties: dict[str, Value] = {}
        children: list[Node] = []
        while (token := self._token()) != _END_NODE:
            if token == _PROPERTY:
                length, key = self._word(), self._word()
                value = self.structure[self.position : self.position + length]
                if len(value) < length:
                    raise ValueError("a property is cut off")
                self.position = align_up(self.position + length, 4)
                properties[_string(self.strings, key).decode("ascii")] = value
            elif token == _BEGIN_NODE:
                children.append(self._node(depth + 1))
            else:
                raise ValueError(f"token {token} is unknown")
        return Node(name.decode("ascii"), properties, tuple(children))


def _string(data: bytes, start: int) -> bytes:
    return data[start : data.index(b"\0", start)]


def render(node: Node, indent: int = 0) -> str:
    """Print a tree whose properties are bytes, guessing which are strings."""
    pad = "    " * indent
    lines = [f"{pad}{node.name or '/'} {{"]
    for name, value in node.properties.items():
        if not isinstance(value, bytes):
            raise DeviceTreeError("render takes a tree as `parse` returns it")
        lines.append(f"{pad}    {name}{_printed(value)};")
    lines += [render(child, indent + 1) for child in node.children]
    return "\n".join([*lines, f"{pad}}};"])


def _printed(value: bytes) -> str:
    if not value:
        return ""
    parts = value[:-1].split(b"\0")
    if value[-1] == 0 and all(part and all(32 <= byte < 127 for byte in part) for part in parts):
        return " = " + ", ".join(f'"{part.decode()}"' for part in parts)
    if len(value) % 4 == 0:
        words = struct.unpack(f">{len(value) // 4}I", value)
        return f" = <{' '.join(f'{word:#x}' for word in words)}>"
    return f" = [{value.hex(' ')}]"
