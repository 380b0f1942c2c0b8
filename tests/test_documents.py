"""The code in the documents runs, and what they quote stands in the sources.

A Python block whose lines begin with ``>>>`` is a doctest. A comment in the line before
a block says more of it:

    <!-- run -->          it is executed, after the blocks before it
    <!-- run: guest -->   so is the whole document's code, but it needs a guest image
    <!-- from: PATH -->   it is a part of the file PATH, word for word
"""

from __future__ import annotations

import doctest
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from tandemu.cli.reference import markdown
from tandemu.machine import Machine
from tandemu.machine.console import Console
from tests.long import STRESS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md")))
_BLOCK = re.compile(
    r"^(?:<!-- (?P<order>run|from)(?:: (?P<what>\S+))? -->\n)?"
    r"```(?P<language>\w*)\n(?P<text>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)


_PATIENCE_S = 3600


class Block(NamedTuple):
    """A fenced block: its line, and what the comment before it orders."""

    line: int
    order: str
    what: str
    text: str

    @property
    def needs_guest(self) -> bool:
        return self.order == "run" and self.what == "guest"


def blocks(document: Path) -> list[Block]:
    """The blocks of *document* that say something to this test."""
    text = document.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        order = match["order"] or ""
        if match["language"] == "python" and match["text"].startswith(">>>"):
            order = order or "run"
        if order:
            line = text.count("\n", 0, match.start("text"))
            found.append(Block(line, order, match["what"] or "", match["text"]))
    return found


def be_patient(block: Block, monkeypatch: pytest.MonkeyPatch) -> Block:
    """*block* with so much time as a guest may take whose code is all compiled at once."""
    for method in (Console.expect, Console.read_until):
        monkeypatch.setattr(method, "__defaults__", (float(_PATIENCE_S),))
    text = re.sub(r"\btimeout=\d+", f"timeout={_PATIENCE_S}", block.text)
    return block._replace(text=text)


def run(document: Path, chosen: list[Block], monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(document.stem.replace("-", "_"))
    names: dict[str, Any] = module.__dict__
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where dataclasses look
    if STRESS:
        chosen = [be_patient(block, monkeypatch) for block in chosen]
    for block in chosen:
        if not block.text.startswith(">>>"):
            # As if it stood in the document: errors show the right line.
            exec(compile("\n" * block.line + block.text, document, "exec"), names)
            continue
        test = doctest.DocTestParser().get_doctest(
            block.text, names, document.name, str(document), block.line
        )
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False)
        assert not result.failed, f"{document.name}, line {block.line + 1}: see above"
        names.update(test.globs)  # it worked on a copy


def with_code(*, guest: bool) -> list[Any]:
    """The documents with code to run that needs a guest, or with code that needs none."""
    return [
        pytest.param(document, id=document.name)
        for document in DOCUMENTS
        if any(one.order == "run" and one.needs_guest == guest for one in blocks(document))
    ]


@pytest.mark.parametrize("document", with_code(guest=False))
def test_the_code_runs(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [one for one in blocks(document) if one.order == "run" and not one.needs_guest]
    run(document, chosen, monkeypatch)


@pytest.mark.guest
@pytest.mark.parametrize("document", with_code(guest=True))
def test_the_code_runs_with_a_guest(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(document, [one for one in blocks(document) if one.order == "run"], monkeypatch)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda one: one.name)
def test_what_is_quoted_stands_in_the_sources(document: Path) -> None:
    for block in blocks(document):
        if block.order == "from":
            source = (ROOT / block.what).read_text(encoding="utf-8")
            assert block.text in source, f"{document.name}, line {block.line}: not in {block.what}"


def test_the_page_of_options_is_what_the_command_line_has() -> None:
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert page == markdown(), "run: python -m tandemu.cli.reference > docs/options.md"


def test_every_option_of_a_machine_is_documented() -> None:
    text = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| `Machine(arch"))
    named = set(re.findall(r"(\w+)=", row))
    assert named == inspect.signature(Machine).parameters.keys() - {"arch"}
