"""Whether a new version is the same as the newest one on disk, for clients and servers.

The comparison covers the graph without the names of its parts, variables, assets, golden and warm-up requests, labelled
rows, and the manifest without numbers, dates and provenance: another commit or package that makes the same content
makes the same version. Cheap comparisons come first: the old version's files are read only if
the manifests and the checksums of variables are equal.
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

# Fields that differ between equal versions. The version of TensorFlow is also in the graph.
_OWN = {"version", "created", "provenance", "files", "digest", "saved_model", "measured"}
# It contains a checksum of the other files, and a random number.
_FINGERPRINT = "fingerprint.pb"


def same_version(
    model_folder: Path, version_folder: Path, manifest: Manifest, note: Callable[[str], None]
) -> int | None:
    """Return the newest version in `model_folder` if the one in `version_folder`, with this `manifest`, is the same.

    None when it differs or there is none. `note` is called when the newest version would be the same but is damaged.
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
        note(f"version {newest} is the same but damaged, so it is not kept: {error}")
        return None


def _may_be_same(old_folder: Path, old: Manifest, new_folder: Path, new: Manifest) -> bool:
    """Return whether at most the graphs differ, according to the manifests and the checksums of variables."""
    if _facts(old) != _facts(new) or _others(old) != _others(new):
        return False
    with Variables(old_folder) as before, Variables(new_folder) as after:
        return Counter(one.content for one in before.values()) == Counter(one.content for one in after.values())


def _others(manifest: Manifest) -> dict[str, FileEntry]:
    """Return the files that contain neither graph nor variables."""
    graph = (SAVED_MODEL, _FINGERPRINT)
    return {
        name: entry for name, entry in manifest.files.items() if name not in graph and not name.startswith("variables/")
    }


def _facts(manifest: Manifest) -> dict[str, Any]:
    return manifest.model_dump(exclude=_OWN)
