"""A hung test is reported by its name, and every other test is run and counted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONFTEST = "from tests.conftest import pytest_xdist_make_scheduler\n"
GUESTS = """\
import os, time, pytest
pytestmark = pytest.mark.xdist_group("guests")
@pytest.mark.parametrize("number", range(5))
def test_guest(number): pass
@pytest.mark.timeout(1)
def test_hangs(): time.sleep(60)
@pytest.mark.parametrize("number", range(5))
def test_later_guest(number): pass
def test_dies(): os._exit(1)
@pytest.mark.parametrize("number", range(@LAST@))
def test_last_guest(number): pass
"""
UNITS = """\
import pytest, time
@pytest.mark.parametrize("number", range(@UNITS@))
def test_unit(number): time.sleep(0.05)
"""


@pytest.mark.parametrize(("units", "last"), [(0, 0), (1, 1), (40, 5)])
def test_a_hung_test_ends_its_worker_and_nothing_else(
    tmp_path: Path, units: int, last: int
) -> None:
    pytest.importorskip("xdist")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_guests.py").write_text(GUESTS.replace("@LAST@", str(last)))
    if units:
        (tmp_path / "test_units.py").write_text(UNITS.replace("@UNITS@", str(units)))
    (tmp_path / "pytest.ini").write_text("[pytest]\ntimeout_method = thread\n")
    answer = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadgroup", "-q", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    # An empty list of parameters makes one test, which is skipped.
    skipped = "" if last else ", 1 skipped"
    assert f"2 failed, {10 + units + last} passed{skipped} in" in answer.stdout, answer.stdout
    for name in ("test_hangs", "test_dies"):
        assert f"crashed while running 'test_guests.py::{name}" in answer.stdout
    assert answer.returncode == 1
