"""Fleets on disk for tests that start no server: versions are folders, as empty as the test allows."""

from __future__ import annotations

from pathlib import Path

from tfserving.serving.models_yaml.fleet import Fleet, read_fleet

GOOD = "models:\n  digits:\n    builder: m:build\n"


def fleet(folder: Path, text: str = GOOD, *, versions: int = 3, warm: bool = True) -> Fleet:
    """The fleet of a models.yaml that says `text`, every model with `versions` versions."""
    (folder / "models.yaml").write_text(text)
    read = read_fleet(folder / "models.yaml")
    for name in read.models:
        for version in range(1, versions + 1):
            extra = folder / f"models/{name}/{version}/assets.extra"
            extra.mkdir(parents=True, exist_ok=True)
            if warm:
                (extra / "tf_serving_warmup_requests").touch()
    return read
