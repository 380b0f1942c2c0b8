"""Imports point downward, and ARCHITECTURE.md shows the layers as they are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tandemu import layers

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "tandemu"
RANK = {package.name: rank for rank, package in enumerate(layers.PACKAGES)}
APART = {package.name: package.apart_from for package in layers.PACKAGES}
ROOMS = {package.name: package.rooms for package in layers.PACKAGES}


@dataclass(frozen=True)
class Import:
    """One import statement: the dotted *target*, and whether it stands in a function."""

    target: str
    line: int
    in_function: bool


def imports_of(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[Import]:
    """Yield every import in *tree*, relative ones resolved against the dotted *module*."""

    def walk(node: ast.AST, in_function: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, in_function)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    up = child.level - (1 if is_package else 0)
                    parents = module.split(".")
                    base = ".".join([*parents[: len(parents) - up], *filter(None, [base])])
                for alias in child.names:
                    yield Import(f"{base}.{alias.name}", child.lineno, in_function)
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, in_function or inside)

    yield from walk(tree, False)


def room_of(parts: tuple[str, ...]) -> str:
    """The room in a package with rooms of the module of these *parts*, the package's first."""
    return parts[1] if parts[1:] and (SOURCE / parts[0] / parts[1]).is_dir() else ""


def points_to_a_higher_room(parts: tuple[str, ...], target: tuple[str, ...]) -> bool:
    """Whether the module of *parts* stands in a lower room than *target* of the same package."""
    rooms = ROOMS.get(parts[0], ())
    if parts[0] != target[0] or not rooms:
        return False
    own, other = room_of(parts), room_of(target)
    return own in rooms and other in rooms and rooms.index(other) > rooms.index(own)


def faults_of(text: str, path: Path) -> Iterator[str]:
    """Yield a line for every import in the file *path*, holding *text*, that breaks a rule."""
    parts = path.with_suffix("").parts
    place = parts[0]
    is_package = parts[-1] == "__init__"
    module = ".".join(("tandemu", *(parts[:-1] if is_package else parts)))
    for found in imports_of(ast.parse(text), module, is_package=is_package):
        where = f"{path}:{found.line}: {found.target}"
        top, _, rest = found.target.partition(".")
        local_allowed = (
            place in layers.IMPORTS_WHEN_USED
            or top in layers.LOADED_WHEN_USED
            or found.target.rpartition(".")[0] in layers.MODULES_WHEN_USED
        )
        if found.in_function and not local_allowed:
            yield f"{where}: an import inside a function; move it to the top of the module"
        if top != "tandemu" or place in layers.ABOVE_ALL:
            continue
        target = rest.split(".")[0]
        if place not in RANK:
            yield f"{where}: tandemu/{place} imports Tandemu but is no package in layers.py"
        elif target not in RANK:
            yield f"{where}: is no package in layers.py"
        elif RANK[target] > RANK[place]:
            yield f"{where}: points upward from {place}"
        elif points_to_a_higher_room(parts, tuple(rest.split("."))):
            yield f"{where}: points to a higher room of {place}"
        else:
            for other in APART[place]:
                if f"{rest}.".startswith(f"{other}."):
                    yield f"{where}: {place} must stay apart from {other}"


def test_no_import_points_upward() -> None:
    faults = [
        fault
        for path in sorted(SOURCE.rglob("*.py"))
        for fault in faults_of(path.read_text(encoding="utf-8"), path.relative_to(SOURCE))
    ]
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize(
    ("path", "text", "says"),
    [
        ("memory/x.py", "from tandemu.jit.engine.cpu import Cpu", "points upward"),
        ("memory/x.py", "from tandemu import jit", "points upward"),
        ("memory/x.py", "import tandemu.machine", "points upward"),
        ("memory/x.py", "from ..jit import cpu", "points upward"),
        ("memory/x.py", "from tandemu import Machine", "no package"),
        ("device/uart.py", "from tandemu.jit.engine import cpu", "apart"),
        ("jit/x.py", "def f():\n    from tandemu.ir import types", "inside a function"),
        ("jit/x.py", "def f():\n    import ctypes", "inside a function"),
        ("jit/run/x.py", "from tandemu.isa.riscv.state import USER", "apart"),
        ("jit/run/x.py", "from tandemu.isa.instruction import Kind", ""),
        ("jit/run/x.py", "from tandemu.jit.machine.vm import JitVm", "higher room"),
        ("jit/run/x.py", "from tandemu.jit import machine", "higher room"),
        ("jit/run/x.py", "from tandemu.jit.translate.blocks import Tag", ""),
        ("isa/x.py", "from tandemu.isa.riscv.state import USER", "higher room"),
        ("helpers.py", "from tandemu import ir", "no package in layers.py"),
        ("jit/x.py", "def f():\n    import llvmlite.binding", ""),
        ("cli/main.py", "def f():\n    from tandemu.machine import Machine", ""),
        ("__init__.py", "def f():\n    from tandemu.machine import Machine", ""),
        ("memory/x.py", "from . import ram\nfrom tandemu.bits import fields", ""),
    ],
)
def test_the_rules_are_what_they_say(path: str, text: str, says: str) -> None:
    faults = list(faults_of(text, Path(path)))
    assert bool(faults) == bool(says)
    assert all(says in fault for fault in faults)


def test_every_package_is_listed_once_and_exists() -> None:
    found = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert sorted(RANK) == sorted(found)
    assert len(RANK) == len(layers.PACKAGES)


def test_every_room_of_a_package_with_several_is_listed_once() -> None:
    for package in layers.PACKAGES:
        found = {path.parent.name for path in (SOURCE / package.name).glob("*/__init__.py")}
        assert found == set(package.rooms) - {""}, package.name
        assert len(package.rooms) == len(set(package.rooms))


def test_a_package_stays_apart_only_from_packages_below_it() -> None:
    for package in layers.PACKAGES:
        for other in package.apart_from:
            assert RANK[other.partition(".")[0]] < RANK[package.name]


def test_the_architecture_shows_the_layers_as_they_are() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    begin, end = "<!-- layers: python -m tandemu.layers -->", "<!-- /layers -->"
    shown = text.split(begin)[1].split(end)[0].strip()
    assert shown == f"```text\n{layers.picture()}\n```", (
        "put what `python -m tandemu.layers` prints between the markers"
    )
