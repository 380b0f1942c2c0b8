"""The version that ``--version`` prints and ``tandemu.__version__`` is."""

from __future__ import annotations

VERSION = "0.1.0"
