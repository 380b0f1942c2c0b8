"""Guest images on disk, as `pull` leaves them.

An image is a folder ``guests/NAME`` in the cache: its files and ``manifest.json``,
which names the packages and every file's size and SHA-256. It is built beside its
place under a lock and renamed into it, so it is whole or not there at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tandemu.guests.catalogue import RECIPES, Built, GuestRecipe, find_recipe
from tandemu.guests.store import cache_folder

MANIFEST = "manifest.json"
FORMAT = 1
_MAXIMUM_MANIFEST = 1 << 18


@dataclass(frozen=True, slots=True)
class GuestImage:
    """A guest that is there: its recipe, its files, and the package versions in it."""

    recipe: GuestRecipe
    folder: Path
    versions: Mapping[str, str]
    size_bytes: int
    is_current: bool = True
    """Whether what Tandemu builds into it is what this version builds; `pull_image` mends it."""

    @property
    def kernel(self) -> Path:
        """The kernel's path."""
        return self.folder / "kernel"

    @property
    def initrd(self) -> Path:
        """The initial RAM disk's path."""
        return self.folder / "initrd"


def image_folder(name: str) -> Path:
    """Where the image called *name* is or will be."""
    return cache_folder() / "guests" / name


def read_manifest(folder: Path) -> dict[str, object] | None:
    """The manifest in *folder*, or None where it is missing or no manifest of ours."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            content = json.loads(file.read(_MAXIMUM_MANIFEST))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("format") == FORMAT else None


def manifest_table(manifest: Mapping[str, object], key: str) -> dict[str, dict[str, object]]:
    """The table under *key*, without what is not of its form: the file is untrusted."""
    value = manifest.get(key)
    if not isinstance(value, dict):
        return {}
    return {str(name): entry for name, entry in value.items() if isinstance(entry, dict)}


def find_image(name: str) -> GuestImage | None:
    """The image called *name* if it is there and its files have the sizes they should have."""
    recipe = find_recipe(name)
    folder = image_folder(name)
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    files = manifest_table(manifest, "files")
    total = 0
    for file_name in recipe.files:
        described = files.get(file_name, {})
        path = folder / file_name
        try:
            size = path.stat().st_size
            if size != described.get("size"):
                return None
        except OSError:
            return None
        total += size
    versions = {
        package: str(entry.get("version", "?"))
        for package, entry in manifest_table(manifest, "packages").items()
    }
    return GuestImage(recipe, folder, versions, total, is_current=_is_current(recipe, files))


def _is_current(recipe: GuestRecipe, files: Mapping[str, Mapping[str, object]]) -> bool:
    return all(
        files.get(name, {}).get("fingerprint") == source.fingerprint
        for name, source in recipe.files.items()
        if isinstance(source, Built)
    )


def list_images() -> list[tuple[GuestRecipe, GuestImage | None]]:
    """Every recipe with its image, or None where it was not pulled yet."""
    return [(recipe, find_image(name)) for name, recipe in RECIPES.items()]
