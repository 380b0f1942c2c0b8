"""The house rules that no tool checks: documents true to the files they speak of."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "tandemu"
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
LONGEST_MODULE_LINES = 600
FIRST_SCREEN_LINES = 30


def sources() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_says_what_it_is_and_has_one_subject(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.lstrip().startswith(('"""', 'r"""')), "no docstring"
    assert len(text.splitlines()) <= LONGEST_MODULE_LINES, "split it along a seam"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_readme_opens_with_the_two_commands() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    first_screen = "\n".join(lines[:FIRST_SCREEN_LINES])
    commands = re.findall(r"^(\./\S+)$", first_screen, flags=re.MULTILINE)
    assert commands == ["./run", "./test"]
    for command in commands:
        assert (ROOT / command).stat().st_mode & 0o111, f"{command} is not executable"


@pytest.mark.parametrize("script", ["run", "test", "tools/host.sh", ".ci/run"])
def test_a_shell_script_parses(script: str) -> None:
    subprocess.run(["bash", "-n", ROOT / script], check=True)


def test_the_test_command_knows_its_parts() -> None:
    answer = subprocess.run(
        ["bash", ROOT / "test", "everything"], check=False, capture_output=True, text=True
    )
    assert answer.returncode == 2
    assert "all|quick|unit|guest|bench" in answer.stderr


def test_the_package_is_typed_and_its_licence_is_here() -> None:
    assert (SOURCE / "py.typed").exists()
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == "Apache-2.0"


def test_importing_the_package_loads_no_engine() -> None:
    code = "import sys, tandemu; print(*[m for m in ('llvmlite', 'rich') if m in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=SOURCE.parent
    )
    assert answer.stdout.strip() == ""
