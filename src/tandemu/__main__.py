"""``python -m tandemu`` is the command ``tandemu``."""

from __future__ import annotations

import sys

from tandemu.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
