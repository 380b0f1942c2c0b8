"""The version that ``--version`` prints and ``tandemu.__version__`` is, and its revision."""

from __future__ import annotations

import os

VERSION = "0.1.0"

_REVISION_DIGITS = 12


def revision() -> str:
    """The commit this is made from, in hexadecimal; "" if that is not known.

    An installed package has it from its build (``hatch_build.py`` writes ``_revision.py``), a
    checkout from its own ``.git``, read as gitrepository-layout(5) says: asking git would take
    longer than the rest of ``--version``.
    """
    try:
        from tandemu.cli._revision import REVISION  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        pass
    else:
        return str(REVISION)
    here = os.path.abspath(__file__)
    for _ in range(4):
        here = os.path.dirname(here)
    return revision_of(here)


def revision_of(checkout: str) -> str:
    """The commit that the checkout in folder *checkout* is at; "" if it is none."""
    try:
        git = os.path.join(checkout, ".git")
        if os.path.isfile(git):  # a work tree of its own, or a submodule
            git = os.path.join(checkout, _line(git).removeprefix("gitdir: "))
        head = _line(os.path.join(git, "HEAD"))
        if head.startswith("ref: "):
            head = _reference(git, head.removeprefix("ref: "))
        return head[:_REVISION_DIGITS]
    except OSError:
        return ""


def _line(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.readline().strip()


def _reference(git: str, name: str) -> str:
    """The commit that reference *name* stands for: in a file of its own, or packed."""
    common = git
    if os.path.exists(os.path.join(git, "commondir")):
        common = os.path.join(git, _line(os.path.join(git, "commondir")))
    for folder in (git, common):
        if os.path.exists(os.path.join(folder, name)):
            return _line(os.path.join(folder, name))
    with open(os.path.join(common, "packed-refs"), encoding="utf-8", errors="replace") as file:
        for line in file:
            commit, _, packed = line.strip().partition(" ")
            if packed == name:
                return commit
    return ""


def long_version() -> str:
    """What ``--version`` says: the version, and in brackets the revision if that is known."""
    commit = revision()
    return f"tandemu {VERSION} (revision {commit})" if commit else f"tandemu {VERSION}"
