"""Marks what is unmarked as a unit test, and hands tests out: guests never compete for a core."""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.long import TEST_TIMEOUT_S

if TYPE_CHECKING:
    from tests.scheduling import SurvivingScheduling

# Whoever started the tests may ignore signals (nohup, a job in the background); what they
# start would inherit that, and some of it is there to be ended by a signal.
for _number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
    signal.signal(_number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

KINDS = ("unit", "guest", "kvm", "bench")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        kinds = [kind for kind in KINDS if item.get_closest_marker(kind)]
        if not kinds:
            item.add_marker(pytest.mark.unit)
        elif kinds != ["unit"]:
            # With `--dist loadgroup` a group runs one after another on one worker.
            item.add_marker(pytest.mark.xdist_group("guests"))
        if TEST_TIMEOUT_S is not None and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_S))


@cache
def compile_engines() -> None:
    """Have native code for all guests compiled, so that no test meets the notices of that."""
    program = "from tests.engines import compile_all; compile_all()"
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root, stderr=subprocess.DEVNULL)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("guest"):
        compile_engines()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SurvivingScheduling | None:
    """A hung test ends its worker, not the run; without pytest-xdist nobody asks."""
    if config.getoption("dist") != "loadgroup":
        return None
    from tests.scheduling import SurvivingScheduling

    return SurvivingScheduling(config, log)
