"""What manifests that tests write themselves need."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from tfserving.export.provenance import Platform, Provenance

PROVENANCE = Provenance(
    source=None,
    builder_file=None,
    training_data={},
    toolkit="0.1.0",
    python="3.11.0",
    packages={"keras": "3.0.0", "numpy": "2.0.0", "tensorflow": "2.21.0"},
    platform=Platform(system="Linux", machine="x86_64", libc=None, cpu=None),
    started=datetime(2026, 1, 1, tzinfo=timezone.utc),
)


def sealed(manifest: Mapping[str, Any]) -> str:
    """The text of a manifest with its digest."""
    empty = json.dumps({**manifest, "digest": ""})
    return empty.replace('"digest": ""', f'"digest": "{hashlib.sha256(empty.encode()).hexdigest()}"')
