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
from tandemu.guests.catalogue import (
    Built,
    BuiltWithModules,
    Copied,
    GuestRecipe,
    RootSystem,
    find_recipe,
)
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
from tandemu.guests.modules import module_files, packed_modules
from tandemu.guests.progress import Progress, Silent
from tandemu.guests.root_tree import RootTree
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
        chosen: dict[str, Copied | Built | BuiltWithModules] = {
            name: source
            for name, source in recipe.files.items()
            if not isinstance(source, RootSystem) and source.package == package
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
    for name, origin in recipe.files.items():
        if isinstance(origin, Built):
            described[name]["fingerprint"] = origin.fingerprint
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
        source.package if isinstance(source, Copied) else source.kernel_package
        for source in recipe.files.values()
        if isinstance(source, BuiltWithModules | RootSystem)
        or (isinstance(source, Copied) and source.newest)
    ]
    for package in dict.fromkeys(naming):
        depends = DebFile(packages[package].path).control().get("Depends", "")
        name = depends.split(",")[0].split("(")[0].split("|")[0].strip()
        if not name:
            raise GuestError(f"{package} depends on nothing: it names no newest package")
        packages = {**packages, package: apt.download([name], folder)[name]}
    return packages


def _fetch_systems(recipe: GuestRecipe, apt: Apt, folder: Path) -> dict[str, dict[str, Package]]:
    """The packages of each whole system of a recipe, by the name of its file."""
    return {
        name: apt.download(apt.with_dependencies(source.packages), folder)
        for name, source in recipe.files.items()
        if isinstance(source, RootSystem)
    }


def _write_system(
    recipe: GuestRecipe,
    name: str,
    system: Mapping[str, Package],
    packages: Mapping[str, Package],
    mirror: str,
    folder: Path,
) -> dict[str, object]:
    """Write the archive of a whole system into *folder*; its size and checksum."""
    source = recipe.files[name]
    assert isinstance(source, RootSystem)
    modules = packed_modules(DebFile(packages[source.kernel_package].path), source.modules)
    with writing(folder / name) as file:
        tree = RootTree(file, suite=recipe.suite, mirror=mirror)
        tree.write([DebFile(package.path) for package in system.values()], modules)
        size = file.tell()
    return {"size": size, "sha256": sha256_of(folder / name)}


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
                systems = _fetch_systems(recipe, apt, downloads)
                progress.step(f"Assembling {name}")
                with building(folder) as staging:
                    files = _assemble(recipe, packages, staging)
                    for file_name, system in systems.items():
                        files[file_name] = _write_system(
                            *(recipe, file_name, system, packages, apt.mirror, staging)
                        )
                    manifest = {
                        "format": FORMAT,
                        "name": name,
                        "suite": recipe.suite,
                        "packages": {
                            package.name: {"version": package.version, "sha256": package.sha256}
                            for group in (packages, *systems.values())
                            for package in group.values()
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
