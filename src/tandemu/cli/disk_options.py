"""The options of ``tandemu disk``, for `cli.parser`: little but argparse is imported here."""

from __future__ import annotations

import argparse
import re

# Type checkers know this name; importing typing takes as long as argparse.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50, "E": 60}
_SIZE = re.compile(r"(\d+)([KMGTPE]?)(?:i?B)?", flags=re.IGNORECASE | re.ASCII)
_EXPLANATION = """\
IMAGE is a file, a block device, or an NBD server's nbd://HOST[:PORT]/[NAME] or
nbd+unix:///[NAME]?socket=FILE. Formats: raw, qcow2; for reading also vmdk, vhdx, vhd, vdi.
Sizes are bytes, or with K, M, G, T: 10G.
"""


def parse_size(text: str) -> int:
    """A size in bytes, such as ``512``, ``10G`` or ``64KiB``.

    >>> parse_size("2M")
    2097152
    """
    match = _SIZE.fullmatch(text)
    if match is None or len(match[1]) > 20:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: give bytes, or such as 512M or 10G")
    return int(match[1]) << _UNITS[match[2].upper()]


def _relative_size(text: str) -> tuple[str, int]:
    sign = "+" if text.startswith("+") else ""
    return sign, parse_size(text[len(sign) :])


def _add_format(parser: argparse.ArgumentParser, *words: str, what: str = "IMAGE") -> None:
    parser.add_argument(
        *(words or ("-f", "--format")),
        metavar="FORMAT",
        help=f"the format of {what} (default: told from its first bytes)",
    )


def _add_share(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-U",
        "--force-share",
        action="store_true",
        help="although another program writes to it: what is seen may be half of a change",
    )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_making(parser: argparse.ArgumentParser) -> None:
    """The options of what makes a new image."""
    parser.add_argument(
        "--preallocation",
        default="off",
        metavar="HOW",
        help="off, metadata (places), falloc (and space), full (and zeros); default: %(default)s",
    )
    parser.add_argument(
        "--cluster-size", type=parse_size, default=65536, metavar="SIZE", help="(default: 64K)"
    )
    parser.add_argument(
        "--compat", choices=("v2", "v3"), default="v3", help="qcow2's version (default: v3)"
    )
    parser.add_argument(
        "--refcount-bits", type=int, default=16, metavar="N", help="1, 2, 4 to 64 (default: 16)"
    )
    parser.add_argument(
        "--lazy-refcounts", action="store_true", help="write reference counts only at the end"
    )
    parser.add_argument(
        "--extended-l2", action="store_true", help="keep 32 subclusters of each cluster apart"
    )
    parser.add_argument(
        "--compression", choices=("zlib", "zstd"), default="zlib", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--data-file", default="", metavar="FILE", help="keep the data in a file of its own"
    )
    parser.add_argument(
        "--data-file-raw", action="store_true", help="... which is a raw image of the disk too"
    )
    parser.add_argument("--force", action="store_true", help="replace a file that is there")


def _add_create(actions: argparse._SubParsersAction[Any]) -> None:
    create = actions.add_parser(
        "create", help="make an empty image", description="Make an empty image."
    )
    create.add_argument("image", metavar="IMAGE", help="the new file")
    create.add_argument(
        "size", nargs="?", type=parse_size, metavar="SIZE", help="(default: the backing image's)"
    )
    create.add_argument(
        "-f", "--format", default="qcow2", metavar="FORMAT", help="qcow2 (the default) or raw"
    )
    create.add_argument(
        "-b", "--backing", default="", metavar="FILE", help="the image below: only changes are kept"
    )
    create.add_argument(
        "-F", "--backing-format", default="", metavar="FORMAT", help="its format (default: told)"
    )
    _add_making(create)


def _add_convert(actions: argparse._SubParsersAction[Any]) -> None:
    convert = actions.add_parser(
        "convert",
        help="copy an image into one of another format",
        description="Copy an image, with all that stands below it, into a new one.",
    )
    convert.add_argument("image", metavar="IMAGE")
    convert.add_argument("target", metavar="TARGET")
    _add_format(convert)
    convert.add_argument(
        "-O", "--to", default="raw", metavar="FORMAT", help="raw (the default) or qcow2"
    )
    convert.add_argument("-c", "--compress", action="store_true", help="pack the data (qcow2)")
    convert.add_argument("-l", "--snapshot", metavar="NAME", help="as the image was then (qcow2)")
    convert.add_argument(
        "-n", "--existing", action="store_true", help="TARGET is there and is written over"
    )
    _add_share(convert)
    _add_making(convert)


def _add_changes(actions: argparse._SubParsersAction[Any]) -> None:
    resize = actions.add_parser(
        "resize", help="make an image larger or smaller", description="Change a disk's size."
    )
    resize.add_argument("image", metavar="IMAGE")
    resize.add_argument(
        "size", type=_relative_size, metavar="[+]SIZE", help="the new size, or with + by how much"
    )
    resize.add_argument(
        "--shrink", action="store_true", help="make it smaller: what is beyond the end is lost"
    )
    _add_format(resize)
    commit = actions.add_parser(
        "commit",
        help="write an image's changes into the image below it",
        description="Write an image's changes into the image below it, and empty it.",
    )
    commit.add_argument("image", metavar="IMAGE")
    commit.add_argument("--keep", action="store_true", help="leave IMAGE as it is")
    rebase = actions.add_parser(
        "rebase",
        help="put another image below one",
        description="Put another image below one. What the disk holds stays the same.",
    )
    rebase.add_argument("image", metavar="IMAGE")
    rebase.add_argument(
        "-b", "--backing", default="", metavar="FILE", help="the image to be below (default: none)"
    )
    rebase.add_argument("-F", "--backing-format", metavar="FORMAT", help="its format")
    rebase.add_argument(
        "-u",
        "--unsafe",
        action="store_true",
        help="change the name alone, for an image below that was moved",
    )
    snapshot = actions.add_parser(
        "snapshot",
        help="internal snapshots of a qcow2 image",
        description="List, make, go back to and delete internal snapshots. Without an option "
        "they are listed.",
    )
    snapshot.add_argument("image", metavar="IMAGE")
    which = snapshot.add_mutually_exclusive_group()
    which.add_argument("-l", "--list", action="store_true", help="list them (the default)")
    which.add_argument("-c", "--create", metavar="NAME", help="keep the disk as it is now")
    which.add_argument("-a", "--apply", metavar="NAME", help="make the disk what it was then")
    which.add_argument("-d", "--delete", metavar="NAME", help="forget one")
    _add_json(snapshot)


def _add_looks(actions: argparse._SubParsersAction[Any]) -> None:
    info = actions.add_parser(
        "info", help="what an image is", description="Say what an image is and what it takes."
    )
    info.add_argument("image", metavar="IMAGE")
    info.add_argument("--chain", action="store_true", help="and all the images below it")
    map_ = actions.add_parser(
        "map", help="what stands where", description="Say which parts of a disk hold data."
    )
    map_.add_argument("image", metavar="IMAGE")
    check = actions.add_parser(
        "check",
        help="look for damage in a qcow2 image, and mend it",
        description="Look for damage in a qcow2 image. Status: 0 clean, 2 damaged, 3 space leaked.",
    )
    check.add_argument("image", metavar="IMAGE")
    check.add_argument(
        "--repair", action="store_true", help="make its tables right; what is unreadable is lost"
    )
    for parser in (info, map_, check):
        _add_format(parser)
        _add_share(parser)
        _add_json(parser)


def _add_serve(actions: argparse._SubParsersAction[Any]) -> None:
    serve = actions.add_parser(
        "serve",
        help="offer an image to others over NBD",
        description="Offer an image to others as a network block device, until Ctrl-C.",
    )
    serve.add_argument("image", metavar="IMAGE")
    _add_format(serve)
    where = serve.add_mutually_exclusive_group()
    where.add_argument(
        "--listen",
        default="localhost:10809",
        metavar="[HOST:]PORT",
        help="where (default: %(default)s)",
    )
    where.add_argument("--socket", metavar="FILE", help="on a Unix socket instead")
    serve.add_argument("--name", default="", metavar="NAME", help="the export's name")
    serve.add_argument("-r", "--read-only", action="store_true", help="nobody may write")
    serve.add_argument("-l", "--snapshot", metavar="NAME", help="as the image was then (qcow2)")
    serve.add_argument("--once", action="store_true", help="end when the first client has gone")


def add_disk(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command with its actions; the chosen one is in ``action``."""
    disk = commands.add_parser(
        "disk",
        help="disk images: make, look into, convert, check, serve them",
        description="Make, look into, change and serve disk images.",
        epilog=_EXPLANATION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = disk.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_create(actions)
    _add_looks(actions)
    _add_convert(actions)
    _add_changes(actions)
    _add_serve(actions)
