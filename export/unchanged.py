"""Whether a version that was just made is the same as the newest one on disk, for all that clients and servers see.

Compared are the graph apart from the names of its parts, variables, assets, golden and warm-up requests, labelled rows,
and what the manifest has besides numbers and dates. What is cheap comes first: the old version's files are read only
when manifests and the checksums of variables are equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfserving.export.canonical import is_same_graph
from tfserving.export.check import check_files
from tfserving.export.errors import ExportError
from tfserving.export.manifest import FileEntry, Manifest, read_manifest
from tfserving.export.variables import Variables
from tfserving.foundation.golden import MANIFEST, SAVED_MODEL, versions_on_disk

# Of each version alone. Which TensorFlow made it is in the graph, too. Where a SavedModel lay is not what is in it.
_OWN = {"version", "created", "versions", "files", "digest", "saved_model"}
# A sum over the other files, and a random number.
_FINGERPRINT = "fingerprint.pb"


def same_version(
    model_folder: Path, version_folder: Path, manifest: Manifest, note: Callable[[str], None]
) -> int | None:
    """The newest version in `model_folder` when the one in `version_folder`, with this `manifest`, is the same.

    None when it differs, or there is none. One that would be the same and is damaged is reported by `note`.
    """
    versions = versions_on_disk(model_folder)
    if not versions:
        return None
    newest = max(versions)
    old_folder = versions[newest]
    if not (old_folder / MANIFEST).exists():
        return None
    try:
        old = read_manifest(old_folder)
        if not _may_be_same(old_folder, old, version_folder, manifest):
            return None
        check_files(old_folder)
        return newest if is_same_graph(old_folder, version_folder) else None
    except (ExportError, OSError) as error:
        note(f"version {newest} on disk can't stay in its place: {error}")
        return None


def _may_be_same(old_folder: Path, old: Manifest, new_folder: Path, new: Manifest) -> bool:
    """Whether nothing differs but perhaps the graph, as far as manifests and the checksums of variables tell."""
    if _facts(old) != _facts(new) or _others(old) != _others(new):
        return False
    with Variables(old_folder) as before, Variables(new_folder) as after:
        return Counter(one.content for one in before.values()) == Counter(one.content for one in after.values())


def _others(manifest: Manifest) -> dict[str, FileEntry]:
    """The files that have neither graph nor variables."""
    graph = (SAVED_MODEL, _FINGERPRINT)
    return {
        name: entry for name, entry in manifest.files.items() if name not in graph and not name.startswith("variables/")
    }


def _facts(manifest: Manifest) -> dict[str, Any]:
    return manifest.model_dump(exclude=_OWN)
