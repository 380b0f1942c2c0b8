"""The options of every command as a page of the documentation: ``python -m tandemu.cli.reference``.

Made from the declarations that ``--help`` shows; a test compares ``docs/options.md`` with it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from tandemu.cli.parser import make_parser

_HEAD = """\
# Options

Every command with its options, as `--help` shows them.
<!-- made by: python -m tandemu.cli.reference -->
"""


def _commands(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, str, list[str]]]:
    """Name, description and rows of *parser* and of all commands in it."""
    rows = []
    below: list[tuple[str, argparse.ArgumentParser]] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            below += action.choices.items()
        elif action.help is not argparse.SUPPRESS and "--help" not in action.option_strings:
            rows.append(_row(parser, action))
    if rows:
        yield name, parser.description or "", rows
    for word, one in below:
        yield from _commands(one, f"{name} {word}")


def _row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    value = ""
    if action.nargs != 0 and action.option_strings:
        shown = action.metavar or (action.dest.upper() if not action.choices else None)
        choices = "|".join(map(str, action.choices or ()))
        value = f" {shown if isinstance(shown, str) else choices}"
    names = ", ".join(f"`{one}{value}`" for one in action.option_strings)
    title = names or f"`{action.metavar or action.dest}`"
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    cells = (title, " ".join(text.split()))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def markdown() -> str:
    """The page."""
    parts = [_HEAD]
    for name, description, rows in _commands(make_parser(), "tandemu"):
        words = " ".join(description.split())
        parts.append(f"\n## {name}\n\n{words}\n\n| | |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "".join(parts)


if __name__ == "__main__":
    print(markdown(), end="")
