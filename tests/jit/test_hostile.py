"""Nothing that a guest does ends the host's process, or keeps it from being stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.long import STRESS

ROOT = Path(__file__).parents[2]
# Where every block becomes a region, a guest takes fifty times as long.
EACH = 10 if STRESS else 500


@pytest.mark.parametrize("part", range(4))
def test_random_guests(part: int) -> None:
    command = [sys.executable, "-m", "tests.jit.hostile", str(part * EACH), str(EACH)]
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = child.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        child.kill()
        output, _ = child.communicate()
    lines = output.splitlines()
    assert lines[-1] == "alive", f"ended with {child.returncode}: {lines[-30:]}"
