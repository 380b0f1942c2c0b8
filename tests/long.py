"""What the environment asks of the tests: how much there is to do, and how long that may take."""

from __future__ import annotations

import os

LONG = "TANDEMU_LONG" in os.environ
"""Whether what takes minutes is wanted: more examples, whole test modules, threads for a minute."""

STRESS = os.environ.get("TANDEMU_OPTIMISER") == "stress"
"""Whether all code is compiled at first touch (`regions.settings`): a guest may take a hundred
times as long."""

TEST_TIMEOUT_S = 7200 if STRESS else None
"""After how many seconds a test is given up that says nothing itself; None: pyproject.toml's."""
