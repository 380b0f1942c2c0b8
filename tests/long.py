"""Whether what takes minutes is wanted: more examples, whole test modules, threads for a minute."""

from __future__ import annotations

import os

LONG = "TANDEMU_LONG" in os.environ
