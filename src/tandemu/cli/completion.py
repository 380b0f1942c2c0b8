"""``tandemu completion SHELL``: the script that completes the command line in a shell.

Made by shtab from the declarations in `cli.parser`, so it knows each option there is.
"""

from __future__ import annotations

import argparse

SHELLS = {
    "bash": "share/bash-completion/completions/tandemu",
    "zsh": "share/zsh/site-functions/_tandemu",
    "fish": "share/fish/vendor_completions.d/tandemu.fish",
}
"""The shells, and where below a prefix each looks for such scripts."""


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for *shell* (one of `SHELLS`) of the commands that *parser* declares."""
    import shtab

    text: str = shtab.complete(parser, shell)
    return text if text.endswith("\n") else text + "\n"


def completion(shell: str) -> int:
    """Print the script for *shell*; return the exit status."""
    from tandemu.cli.parser import make_parser

    print(script(make_parser(), shell), end="")
    return 0
