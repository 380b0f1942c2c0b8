"""Putting a guest image together: packages fetched, verified, unpacked, kept in the cache.

It is built beside its place under a lock and renamed into it, so it is whole or not
there at all, whatever interrupts it.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from tandemu.guests.apt import Apt, Package, sha256_of
from tandemu.guests.catalogue import Built, BuiltWithModules, Copied, GuestRecipe, find_recipe
from tandemu.guests.deb import DebFile, Sink
from tandemu.guests.errors import GuestError
from tandemu.guests.images import (
    FORMAT,
    MANIFEST,
    GuestImage,
    find_image,
    image_folder,
    manifest_table,
    read_manifest,
)
from tandemu.guests.modules import module_files
from tandemu.guests.progress import Progress, Silent
from tandemu.guests.store import (
    building,
    cache_folder,
    clear_disk_errors,
    folder_size,
    lock,
    make_folder,
    scratch,
    writing,
)

_MAXIMUM_FILE = 1 << 30


class _Copy:
    """A sink that writes to a file, hashes, and stops at a bound."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self._hash = hashlib.sha256()
        self._size = 0

    def __call__(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > _MAXIMUM_FILE:
            raise GuestError(f"{self._name} is larger than 1 GiB; this is not the package expected")
        self._hash.update(piece)
        self._file.write(piece)

    @property
    def entry(self) -> dict[str, object]:
        if not self._size:
            raise GuestError(f"{self._name} is empty in its package; pull the guest again")
        return {"size": self._size, "sha256": self._hash.hexdigest()}


def _assemble(
    recipe: GuestRecipe, packages: Mapping[str, Package], folder: Path
) -> dict[str, dict[str, object]]:
    """Write the image's files into *folder*; return their sizes and checksums."""
    described: dict[str, dict[str, object]] = {}
    for package in recipe.packages:
        deb = DebFile(packages[package].path)
        chosen = {
            name: source for name, source in recipe.files.items() if source.package == package
        }
        with contextlib.ExitStack() as stack:
            copies: dict[str, _Copy] = {}
            sinks: dict[str, Sink] = {}
            for name, source in chosen.items():
                file = stack.enter_context(writing(folder / name))
                copy = copies[name] = _Copy(file, name)
                if isinstance(source, Copied):
                    sinks[_only_match(deb, source.path)] = copy
                elif isinstance(source, BuiltWithModules):
                    kernel = DebFile(packages[source.kernel_package].path)
                    modules = module_files(kernel, source.modules)
                    copy(source.build(deb.read(source.path), modules))
                else:
                    copy(source.build(deb.read(source.path)))
            if sinks:
                deb.extract(sinks)
            described.update({name: copy.entry for name, copy in copies.items()})
    for name, source in recipe.files.items():
        if isinstance(source, Built):
            described[name]["fingerprint"] = source.fingerprint
    return described


def _only_match(deb: DebFile, pattern: str) -> str:
    """The name in *deb* that matches *pattern*; `GuestError` if it is not one."""
    if not set(pattern) & set("*?["):
        return pattern
    found = fnmatch.filter(deb.names(), pattern)
    if len(found) != 1:
        raise GuestError(
            f"{deb.path.name} has {len(found)} files {pattern!r} where one is expected"
        )
    return found[0]


def _take_newest(
    recipe: GuestRecipe, packages: dict[str, Package], apt: Apt, folder: Path
) -> dict[str, Package]:
    """*packages* with those that only name the newest one replaced by that one."""
    naming = [
        source.kernel_package if isinstance(source, BuiltWithModules) else source.package
        for source in recipe.files.values()
        if isinstance(source, BuiltWithModules) or (isinstance(source, Copied) and source.newest)
    ]
    for package in dict.fromkeys(naming):
        depends = DebFile(packages[package].path).control().get("Depends", "")
        name = depends.split(",")[0].split("(")[0].split("|")[0].strip()
        if not name:
            raise GuestError(f"{package} depends on nothing: it names no newest package")
        packages = {**packages, package: apt.download([name], folder)[name]}
    return packages


def _renewed(image: GuestImage) -> GuestImage:
    """*image* with what is built into it built anew, out of itself: nothing is fetched.

    Where that fails it stays as it is: an older shell is better than none.
    """
    manifest = read_manifest(image.folder) or {}
    files = manifest_table(manifest, "files")
    for name, source in image.recipe.files.items():
        if isinstance(source, Built):
            copied = _Copy(io.BytesIO(), name)
            try:
                content = source.build(source.source((image.folder / name).read_bytes()))
                copied(content)
                with writing(image.folder / name) as file:
                    file.write(content)
            except (OSError, GuestError):
                return image
            files[name] = {**copied.entry, "fingerprint": source.fingerprint}
    with contextlib.suppress(OSError), writing(image.folder / MANIFEST) as file:
        file.write(json.dumps({**manifest, "files": files}, indent=2).encode() + b"\n")
    return find_image(image.recipe.name) or image


def pull_image(
    name: str, *, mirror: str = "", progress: Progress | None = None, again: bool = False
) -> GuestImage:
    """Return the image called *name*, fetching and assembling it if it is not there.

    *again*: build it anew from the packages' current versions.
    """
    recipe = find_recipe(name)
    progress = progress or Silent()
    folder = image_folder(name)
    with clear_disk_errors(folder.parent):
        make_folder(folder.parent)
        with lock(folder.parent / f".{name}.lock"):
            image = None if again else find_image(name)
            if image is not None:  # another process was first
                return image if image.is_current else _renewed(image)
            apt = Apt(recipe.debian_architecture, recipe.suite, mirror=mirror, progress=progress)
            # The packages stay only until the image is built from them.
            with scratch(cache_folder() / "packages", name) as downloads:
                packages = apt.download(recipe.packages, downloads)
                packages = _take_newest(recipe, packages, apt, downloads)
                progress.step(f"Assembling {name}")
                with building(folder) as staging:
                    files = _assemble(recipe, packages, staging)
                    manifest = {
                        "format": FORMAT,
                        "name": name,
                        "suite": recipe.suite,
                        "packages": {
                            package.name: {"version": package.version, "sha256": package.sha256}
                            for package in packages.values()
                        },
                        "files": files,
                    }
                    with writing(staging / MANIFEST) as file:
                        file.write(json.dumps(manifest, indent=2).encode() + b"\n")
            apt.clean()
    image = find_image(name)
    if image is None:
        raise GuestError(f"the image {name} vanished from {folder}; pull it again")
    return image


def remove_image(name: str) -> int:
    """Remove the image called *name*, and what was left of fetching it; the bytes that were freed.

    A machine that runs from it goes on: its files stay until it lets them go.
    """
    find_recipe(name)
    folder = image_folder(name)
    if not folder.exists():
        return 0
    with clear_disk_errors(folder.parent), lock(folder.parent / f".{name}.lock"):
        size = folder_size(folder)
        with scratch(folder.parent, name) as going:
            # Under another name first: what is there is whole.
            folder.rename(going / "old")
    return size


def is_intact(image: GuestImage) -> bool:
    """Whether every file of *image* has the checksum it had when it was put together."""
    files = manifest_table(read_manifest(image.folder) or {}, "files")
    try:
        return all(
            sha256_of(image.folder / name) == files.get(name, {}).get("sha256")
            for name in image.recipe.files
        )
    except OSError:
        return False
