"""What manifests that tests write themselves need."""

from __future__ import annotations

from datetime import datetime, timezone

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
