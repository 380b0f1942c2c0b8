"""Where this system fetches Debian packages from, read out of apt's own configuration.

Understands sources.list(5) in both forms (one line, deb822). The mirror is named by
the user's setting or by the system, never by this code.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tandemu.guests.errors import GuestError

MIRROR_VARIABLE = "TANDEMU_MIRROR"
KEYRING_VARIABLE = "TANDEMU_KEYRING"

_DEBIAN_SUITES = re.compile(
    "(old){0,2}stable|testing|unstable|sid|buster|bullseye|bookworm|trixie|forky|duke"
)
_SCHEMES = ("http", "https", "file", "copy", "mirror+file", "mirror+http", "mirror+https")
_KEYRINGS = (
    "usr/share/keyrings/debian-archive-keyring.gpg",
    "usr/share/keyrings/debian-archive-keyring.pgp",
    "etc/apt/keyrings/debian-archive-keyring.gpg",
    "etc/apt/trusted.gpg.d/debian-archive-keyring.gpg",
)
_MAXIMUM_FILE = 1 << 20
_ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)")


@dataclass(frozen=True, slots=True)
class Source:
    """An archive: its *uri*, the *suite* that was read, and what its signatures are checked by.

    *keyring* is a path or an embedded public key, empty where apt's defaults hold.
    """

    uri: str
    suite: str
    keyring: str = ""


def _one_line(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        match = _ONE_LINE.match(line.split("#", 1)[0].strip())
        if match is None:
            continue
        options = dict(
            option.partition("=")[::2]
            for option in (match["options"] or "").split()
            if "=" in option
        )
        yield Source(match["uri"], match["suite"].rstrip("/"), options.get("signed-by", ""))


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    fields: dict[str, str] = {}
    key = ""
    for line in [*text.splitlines(), ""]:
        if not line.strip():
            if fields:
                yield fields
            fields, key = {}, ""
        elif line.startswith("#"):
            continue
        elif line[0] in " \t":
            if key:
                fields[key] += "\n" + line.strip()
        else:
            key, _, value = line.partition(":")
            key = key.strip().lower()
            fields[key] = value.strip()


def _deb822(text: str) -> Iterator[Source]:
    for fields in _stanzas(text):
        if "deb" not in fields.get("types", "").split():
            continue
        if fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        signed_by = fields.get("signed-by", "")
        if "BEGIN PGP" in signed_by:  # an embedded key: a lone dot stands for an empty line
            lines = ("" if line == "." else line for line in signed_by.strip().splitlines())
            keyring = "\n".join(lines) + "\n"
        else:
            keyring = signed_by.split()[0] if signed_by.split() else ""
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Source(uri, suite.rstrip("/"), keyring)


def read_sources(text: str, deb822: bool) -> list[Source]:
    """The ``deb`` archives a sources file names, in its order."""
    return list(_deb822(text) if deb822 else _one_line(text))


def system_sources(root: Path = Path("/")) -> list[Source]:
    """Every archive the system's apt uses; unreadable files are passed over."""
    folder = root / "etc/apt/sources.list.d"
    files = [root / "etc/apt/sources.list"]
    if folder.is_dir():
        files += sorted(folder.iterdir())
    found: list[Source] = []
    for path in files:
        if path.suffix not in (".list", ".sources"):
            continue
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                text = file.read(_MAXIMUM_FILE)
        except OSError:
            continue
        found += read_sources(text, path.suffix == ".sources")
    return found


def _checked_mirror(mirror: str, where: str) -> str:
    scheme, colon, rest = mirror.partition(":")
    strange = not mirror.isprintable() or any(character in ' []"' for character in mirror)
    if scheme not in _SCHEMES or not colon or len(rest) < 2 or strange:
        raise GuestError(
            f"{where} {mirror!r} is not the address of a package mirror: it must be a URL such as "
            "http://MIRROR/debian or file:/PATH, without spaces"
        )
    return mirror


def _keyring(entry: Source | None, root: Path, environment: Mapping[str, str]) -> str:
    chosen = environment.get(KEYRING_VARIABLE, "")
    if chosen:
        if not Path(chosen).is_file():
            raise GuestError(f"{KEYRING_VARIABLE} names {chosen}, which is not a file")
        return str(Path(chosen).resolve())
    for candidate in _KEYRINGS:
        if (root / candidate).is_file():
            return str(root / candidate)
    if entry is not None and ("BEGIN PGP" in entry.keyring or Path(entry.keyring).is_file()):
        return entry.keyring
    return ""


def find_source(
    suite: str,
    mirror: str = "",
    *,
    root: Path = Path("/"),
    environment: Mapping[str, str] = os.environ,
) -> Source:
    """The archive to fetch *suite* from: *mirror*, the setting, or the system's own."""
    entry = next(
        (
            source
            for source in system_sources(root)
            if _DEBIAN_SUITES.fullmatch(source.suite) and source.uri.partition(":")[0] in _SCHEMES
        ),
        None,
    )
    keyring = _keyring(entry, root, environment)
    chosen = mirror or environment.get(MIRROR_VARIABLE, "")
    if chosen:
        return Source(
            _checked_mirror(chosen, "--mirror" if mirror else MIRROR_VARIABLE), suite, keyring
        )
    if entry is None:
        raise GuestError(
            "this system's apt knows no Debian archive to fetch the guest from. Name a Debian "
            f"mirror with --mirror URL or in {MIRROR_VARIABLE}; where its signing keys are "
            "missing, install the package debian-archive-keyring or name a keyring file in "
            f"{KEYRING_VARIABLE}"
        )
    return Source(entry.uri, suite, keyring)
