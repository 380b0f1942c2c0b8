"""What is made when a wheel or an sdist is built: the revision, manual pages, completion.

All are made from the command line's own declarations (`tandemu.cli.parser`) and go where the
programs that use them look below an environment's prefix. An editable installation has none.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_REVISION_FILE = "tandemu/cli/_revision.py"


class Hook(BuildHookInterface):  # type: ignore[type-arg,misc]
    """Adds the files that are made."""

    PLUGIN_NAME = "custom"
    _made: Path | None = None
    """The folder of what is made, which is gone when the archive is written."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        root = Path(self.root)
        sys.path.insert(0, str(root / "src"))
        try:
            from tandemu.cli.parser import make_parser
            from tandemu.cli.version import revision

            made = self._made = Path(tempfile.mkdtemp(prefix="tandemu-build-"))
            commit = revision()
            if commit and not (root / "src" / _REVISION_FILE).exists():
                file = made / "_revision.py"
                file.write_text(
                    f'"""The commit this package was built from."""\n\nREVISION = "{commit}"\n'
                )
                inside = _REVISION_FILE if self.target_name == "wheel" else f"src/{_REVISION_FILE}"
                build_data["force_include"][str(file)] = inside
            if self.target_name == "wheel":
                self._add_shared(make_parser(), made, build_data["shared_data"])
        finally:
            sys.path.pop(0)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._made is not None:
            shutil.rmtree(self._made)

    def _add_shared(self, parser: Any, made: Path, shared: dict[str, str]) -> None:
        from argparse_manpage.manpage import Manpage

        from tandemu.cli.completion import SHELLS, script

        pages = made / "tandemu.1"
        pages.write_text(str(Manpage(parser)), encoding="utf-8")
        shared[str(pages)] = "share/man/man1/tandemu.1"
        for shell, place in SHELLS.items():
            file = made / f"completion.{shell}"
            file.write_text(script(parser, shell), encoding="utf-8")
            shared[str(file)] = place
