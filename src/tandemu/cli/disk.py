"""``tandemu disk``: make, look into, convert, check, change and serve disk images."""

from __future__ import annotations

import argparse
import datetime
import json
import signal
from collections.abc import Callable
from typing import Any

from tandemu.cli.progress import make_progress
from tandemu.host.disk import Content, Description, DiskUsageError, Extent, Image, open_image
from tandemu.host.disk.chain import commit, need_qcow2, rebase, resize_image
from tandemu.host.disk.making import convert, copy_into, create_image
from tandemu.host.disk.opening import describe_chain
from tandemu.host.disk.qcow2 import manage
from tandemu.host.disk.qcow2.check import Report, check
from tandemu.host.disk.qcow2.create import Qcow2Options

DAMAGED_STATUS = 2
LEAKS_STATUS = 3


def readable(size: int) -> str:
    """A size for people.

    >>> readable(512), readable(3 << 29), readable(10 << 30)
    ('512 B', '1.5 GiB', '10 GiB')
    """
    value, units = float(size), iter(("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"))
    unit = next(units)
    while value >= 1024 and unit != "EiB":
        value, unit = value / 1024, next(units)
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"


def _qcow2_options(options: argparse.Namespace) -> Qcow2Options:
    return Qcow2Options(
        cluster_bytes=options.cluster_size,
        version=2 if options.compat == "v2" else 3,
        refcount_bits=options.refcount_bits,
        lazy_refcounts=options.lazy_refcounts,
        extended_l2=options.extended_l2,
        compression=options.compression,
        backing=getattr(options, "backing", ""),
        backing_format=getattr(options, "backing_format", ""),
        data_file=options.data_file,
        data_file_raw=options.data_file_raw,
    )


def _refuse(wrong: bool, text: str) -> None:
    """An option that would change nothing is a mistake."""
    if wrong:
        raise DiskUsageError(text)


def _create(options: argparse.Namespace) -> int:
    _refuse(
        bool(options.backing_format and not options.backing),
        "--backing-format says the format of --backing, which is not given",
    )
    create_image(
        options.image,
        options.format,
        options.size,
        _qcow2_options(options),
        preallocation=options.preallocation,
        replace_file=options.force,
    )
    with open_image(options.image, options.format, read_only=True, share=True) as image:
        print(f"{options.image} is a {image.format} image of {readable(image.size_bytes)}")
    return 0


def _described(path: str, said: Description) -> dict[str, object]:
    facts: dict[str, object] = {
        "image": path,
        "format": said.format,
        "size": said.size_bytes,
        "on the host": said.host_bytes,
    }
    if said.backing:
        facts["backing"] = said.backing
        if said.backing_format:
            facts["backing format"] = said.backing_format
    return {**facts, **said.facts}


def _show_facts(facts: dict[str, object]) -> None:
    width = max(map(len, facts)) + 1
    for name, value in facts.items():
        text = str(value)
        if isinstance(value, bool):
            text = "yes" if value else "no"
        elif name in ("size", "on the host") and isinstance(value, int):
            text = f"{readable(value)} ({value} bytes)"
        elif isinstance(value, list):
            text = ("\n" + " " * (width + 1)).join(map(str, value))
        print(f"{name + ':':<{width}} {text}")


def _info(options: argparse.Namespace) -> int:
    share = options.force_share
    if options.chain:
        described = [
            _described(path, said)
            for path, said in describe_chain(options.image, options.format, share=share)
        ]
    else:
        with open_image(
            options.image, options.format, read_only=True, share=share, backing=False
        ) as image:
            described = [_described(options.image, image.describe())]
    if options.json:
        print(json.dumps(described if options.chain else described[0], indent=2))
        return 0
    for number, facts in enumerate(described):
        if number:
            print()
        _show_facts(facts)
    return 0


def _merged(image: Image) -> list[Extent]:
    """The extents of *image*, neighbours that are alike as one."""
    found: list[Extent] = []
    for one in image.extents(0, image.size_bytes):
        if found and _continues(found[-1], one):
            last = found[-1]
            found[-1] = Extent(
                last.offset, last.length + one.length, last.content, last.host_offset,
                last.depth, last.packed,
            )  # fmt: skip
        else:
            found.append(one)
    return found


def _continues(last: Extent, one: Extent) -> bool:
    if (last.content, last.depth, last.packed) != (one.content, one.depth, one.packed):
        return False
    if last.host_offset is None or one.host_offset is None:
        return last.host_offset is one.host_offset
    return last.host_offset + last.length == one.host_offset or one.content is not Content.DATA


def _map(options: argparse.Namespace) -> int:
    with open_image(
        options.image, options.format, read_only=True, share=options.force_share
    ) as image:
        extents = _merged(image)
    if options.json:
        print(json.dumps([_extent_as_json(one) for one in extents], indent=2))
        return 0
    print(f"{'offset':>16}  {'length':>16}  content  below  place in the file")
    for one in extents:
        place = "" if one.host_offset is None or one.content is not Content.DATA else (
            f"{one.host_offset:#x}"
        )  # fmt: skip
        if one.packed:
            place = "packed"
        print(
            f"{one.offset:>#16x}  {one.length:>#16x}  {one.content.value:<7}  "
            f"{one.depth or '':>5}  {place}".rstrip()
        )
    return 0


def _extent_as_json(one: Extent) -> dict[str, object]:
    fields: dict[str, object] = {
        "start": one.offset,
        "length": one.length,
        "content": one.content.value,
        "depth": one.depth,
    }
    if one.content is Content.DATA and one.host_offset is not None:
        fields["offset"] = one.host_offset
    if one.packed:
        fields["compressed"] = True
    return fields


def _convert(options: argparse.Namespace) -> int:
    _refuse(
        options.existing
        and (
            _qcow2_options(options) != Qcow2Options()
            or options.preallocation != "off"
            or options.force
        ),
        "with --existing no image is made, so there is no saying how",
    )
    with (
        open_image(
            options.image,
            options.format,
            read_only=True,
            share=options.force_share,
            snapshot=options.snapshot,
        ) as source,
        make_progress() as progress,
    ):
        progress.step(f"Copying {options.image} to {options.target}")
        if options.existing:
            with open_image(options.target, options.to) as target:
                if target.size_bytes < source.size_bytes:
                    raise DiskUsageError(
                        f"{options.target} has {target.size_bytes} bytes: the "
                        f"{source.size_bytes} of {options.image} do not fit"
                    )
                copy_into(
                    source, target, progress.advance, compress=options.compress, is_empty=False
                )
            return 0
        convert(
            source,
            options.target,
            options.to,
            _qcow2_options(options),
            progress.advance,
            compress=options.compress,
            preallocation=options.preallocation,
            replace_file=options.force,
        )
    return 0


def _check(options: argparse.Namespace) -> int:
    lost: list[str] = []
    _refuse(
        options.repair and options.force_share,
        "an image is not repaired while another program uses it (--force-share)",
    )
    if options.repair:
        with open_image(options.image, options.format, backing=False, repair=True) as image:
            lost = manage.repair(need_qcow2(image, "check"))
    with open_image(
        options.image, options.format, read_only=True, share=options.force_share, backing=False
    ) as image:
        qcow2 = need_qcow2(image, "check")
        with make_progress() as progress:
            progress.step(f"Checking {options.image}")
            report = check(qcow2.storage, qcow2.header, progress.advance)
    if options.json:
        print(json.dumps(_report_as_json(report, lost), indent=2))
    else:
        _show_report(options, report, lost)
    if report.error_count:
        return DAMAGED_STATUS
    return LEAKS_STATUS if report.leaks else 0


def _report_as_json(report: Report, lost: list[str]) -> dict[str, object]:
    return {
        "errors": report.errors,
        "error-count": report.error_count,
        "leaked-clusters": report.leaks,
        "clusters": report.clusters,
        "allocated-clusters": report.data,
        "compressed-clusters": report.packed,
        "fragmented-clusters": report.fragmented,
        "end": report.end,
        "given-up": lost,
    }


def _show_report(options: argparse.Namespace, report: Report, lost: list[str]) -> None:
    for text in lost:
        print(f"given up: {text}")
    for text in report.errors:
        print(f"error: {text}")
    if report.more_errors:
        print(f"and {report.more_errors} errors more")
    if report.error_count and not options.repair:
        print(f"The image is damaged. Copy it, then: tandemu disk check --repair {options.image}")
    elif report.leaks:
        print(
            f"{report.leaks} clusters are counted but not used. That is harmless; --repair gives "
            "them back"
        )
    elif not report.error_count:
        print("No errors were found")
    used = 100 * report.data / max(report.clusters, 1)
    print(
        f"{report.data} of {report.clusters} clusters are in use ({used:.1f} %), "
        f"{report.fragmented} of them out of order, {report.packed} compressed"
    )


def _resize(options: argparse.Namespace) -> int:
    sign, size = options.size
    with open_image(options.image, options.format) as image:
        old = image.size_bytes
        new = -(-(old + size if sign else size) // 512) * 512
        if new < old and not options.shrink:
            raise DiskUsageError(
                f"{options.image} has {old} bytes; what is beyond {new} would be lost. If that is "
                "meant, say --shrink"
            )
        resize_image(image, new)
    print(f"{options.image} has {readable(new)} now, and had {readable(old)}")
    return 0


def _commit(options: argparse.Namespace) -> int:
    with make_progress() as progress:
        progress.step(f"Committing {options.image}")
        below = commit(options.image, progress.advance, keep=options.keep)
    print(f"{below} holds the changes of {options.image} now")
    return 0


def _rebase(options: argparse.Namespace) -> int:
    _refuse(
        bool(options.backing_format and not options.backing),
        "--backing-format says the format of --backing, which is not given",
    )
    with make_progress() as progress:
        progress.step(f"Putting {options.backing or 'nothing'} below {options.image}")
        rebase(
            options.image,
            options.backing,
            options.backing_format,
            progress.advance,
            unsafe=options.unsafe,
        )
    return 0


def _snapshot(options: argparse.Namespace) -> int:
    changes: dict[str, Callable[..., Any]] = {
        "create": manage.create_snapshot,
        "apply": manage.apply_snapshot,
        "delete": manage.delete_snapshot,
    }
    for name, change in changes.items():
        if (wanted := getattr(options, name)) is not None:
            _refuse(options.json, f"--json is for the list: there is nothing to say of --{name}")
            with open_image(options.image, "qcow2") as image:
                change(need_qcow2(image, "snapshot"), wanted)
            return 0
    with open_image(options.image, None, read_only=True, share=True, backing=False) as image:
        snapshots = manage.list_snapshots(need_qcow2(image, "snapshot"))
    if options.json:
        print(
            json.dumps(
                [
                    {
                        "id": one.id,
                        "name": one.name,
                        "seconds": one.seconds,
                        "nanoseconds": one.nanoseconds,
                        "size": one.disk_bytes,
                        "machine-state": one.state_bytes,
                    }
                    for one in snapshots
                ],
                indent=2,
            )
        )
        return 0
    if not snapshots:
        print(f"{options.image} has no snapshots")
        return 0
    print(f"{'id':<4} {'made':<19} {'disk':>9} {'state':>9}  name")
    for one in snapshots:
        made = datetime.datetime.fromtimestamp(one.seconds).isoformat(" ", "seconds")
        state = readable(one.state_bytes) if one.state_bytes else ""
        print(f"{one.id:<4} {made:<19} {readable(one.disk_bytes):>9} {state:>9}  {one.name}")
    return 0


def _serve(options: argparse.Namespace) -> int:
    from tandemu.host.disk.nbd.server import Server

    host, _, port = options.listen.rpartition(":")
    if not port.isascii() or not port.isdecimal() or int(port[:9]) > 65535:
        raise DiskUsageError(f"{options.listen} is no place to listen on: must be [HOST:]PORT")
    read_only = options.read_only or options.snapshot is not None
    with open_image(
        options.image, options.format, read_only=read_only, snapshot=options.snapshot
    ) as image:
        server = Server(
            image,
            name=options.name,
            socket_path=options.socket or "",
            host=host.strip("[]") or "localhost",
            port=int(port),
        )
        signal.signal(signal.SIGTERM, lambda *_: server.stop())
        print(f"{options.image} is offered at {server.address.uri}", flush=True)
        try:
            server.serve(once=options.once)
        finally:
            server.close()
    return 0


_ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "create": _create,
    "info": _info,
    "map": _map,
    "convert": _convert,
    "check": _check,
    "resize": _resize,
    "commit": _commit,
    "rebase": _rebase,
    "snapshot": _snapshot,
    "serve": _serve,
}


def disk(options: argparse.Namespace) -> int:
    """Carry out the command; return the exit status."""
    return _ACTIONS[options.action](options)
