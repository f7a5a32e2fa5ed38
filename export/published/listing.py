"""What `export list URL` says of published versions: bounded, with one line for each, and no more than was checked."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tfserving.clients.printable import printable
from tfserving.export.published.source import Contents, Numbers, Source
from tfserving.foundation.manifest import SIGNATURE, ManifestError
from tfserving.foundation.quality import Metric, figure
from tfserving.foundation.store import Limits, StoreError, UnfinishedError
from tfserving.foundation.trust import Trust, TrustError
from tfserving.foundation.trust.bundle import read_bundle
from tfserving.foundation.trust.signature import verify_signature

State = Literal["complete", "publishing", "broken"]
# Of one version in a line.
_MOST_METRICS, _MOST_PROBLEMS = 8, 3

# - none: it has no signature; unverified: it has one, and nobody is trusted
# - matches: somebody who is trusted signed this manifest; the files weren't read, so they weren't compared
# - untrusted: it has no signature of anyone who is trusted
Signature = Literal["none", "unverified", "matches", "untrusted"]


@dataclass(frozen=True)
class Listed:
    """One published version. `signer` is verified with the signature `matches`, and else only what it names."""

    version: int
    state: State
    created: str | None = None
    size_bytes: int | None = None
    metrics: Mapping[str, Any] | None = None
    digest: str | None = None
    signature: Signature = "none"
    signer: str | None = None
    reference: str | None = None
    problems: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    served: str | None = None

    def line(self) -> str:
        """Return it in one line."""
        parts = [f"version {self.version}", *([self.state] if self.state != "complete" else [])]
        if self.created is not None:
            parts.append(self.created)
        if self.size_bytes is not None:
            parts.append(f"{self.size_bytes} bytes")
        metrics = list((self.metrics or {}).items())
        parts += [f"{name} {figure(_value(value))}" for name, value in metrics[:_MOST_METRICS]]
        if len(metrics) > _MOST_METRICS:
            parts.append(f"and {len(metrics) - _MOST_METRICS} more")
        if self.state == "complete":
            parts.append(self._signed())
        parts += self.labels
        if self.served is not None:
            parts.append(f"server: {self.served}")
        parts += self.problems[:_MOST_PROBLEMS]
        if len(self.problems) > _MOST_PROBLEMS:
            parts.append(f"and {len(self.problems) - _MOST_PROBLEMS} more differences")
        if self.reference is not None:
            parts.append(self.reference)
        return "  ".join(map(printable, parts))

    def _signed(self) -> str:
        match self.signature:
            case "none":
                return "not signed"
            case "unverified":
                return f"signature not verified, it names {self.signer}"
            case "matches":
                return f"signature matches the manifest: {self.signer}"
        return "NOT TRUSTED"


@dataclass(frozen=True)
class Model:
    """The versions of a model that are listed, newest first. `older` counts those that aren't, at least."""

    name: str
    versions: tuple[Listed, ...]
    older: int = 0
    more: bool = False
    unfinished_uploads: int = 0
    error: str | None = None

    def lines(self) -> Iterator[str]:
        """Return a line for each version, and what else there is to say."""
        if self.error is not None:
            yield f"{self.name}  {printable(self.error)}"
        elif not self.versions:
            yield f"{self.name}  no versions"
        for one in self.versions:
            yield f"{self.name}  {one.line()}"
        if self.older:
            yield f"{self.name}  {self.older}{' or more' * self.more} older versions. --newest shows more"
        if self.unfinished_uploads:
            yield f"{self.name}  {self.unfinished_uploads} uploads began and are not finished, or were left"


@dataclass(frozen=True)
class Known:
    """What is known beside the published versions: whom to trust, labels by version, and states on a server."""

    trust: Trust | None = None
    labels: Mapping[str, int] | None = None
    served: Mapping[int, str] | None = None


def listed(source: Source, name: str, newest: int, known: Known, limits: Limits) -> Model:
    """Return the `newest` versions of a model, those with a label and those that a server has.

    A fault of one version is in its line. Raises nothing.
    """
    try:
        found = source.versions(name)
    except StoreError as error:
        return Model(name, (), error=str(error))
    chosen = _chosen(found, newest, known)
    versions = tuple(_version(source, name, number, known, limits) for number in chosen)
    return Model(name, versions, len(found.numbers) - len(chosen), found.more, found.unfinished)


def as_json(model: Model) -> dict[str, Any]:
    """Return what `--json` prints of a model."""
    return {
        "name": model.name,
        "versions": [asdict(one) for one in model.versions],
        "older": model.older,
        "unfinished_uploads": model.unfinished_uploads,
        **({"error": model.error} if model.error is not None else {}),
    }


def _chosen(found: Numbers, newest: int, known: Known) -> list[int]:
    first = set(found.numbers[:newest])
    first |= (set((known.labels or {}).values()) | set(known.served or {})) & set(found.numbers)
    return sorted(first, reverse=True)


def _version(source: Source, name: str, number: int, known: Known, limits: Limits) -> Listed:
    labels = tuple(sorted(label for label, version in (known.labels or {}).items() if version == number))
    served = (known.served or {}).get(number)
    try:
        contents = source.contents(name, number, limits)
        return _described(name, number, contents, known.trust, labels, served)
    except UnfinishedError:
        return Listed(number, "publishing", labels=labels, served=served)
    except (StoreError, ManifestError) as error:
        return Listed(number, "broken", problems=(str(error),), labels=labels, served=served)


def _described(
    name: str, number: int, contents: Contents, trust: Trust | None, labels: tuple[str, ...], served: str | None
) -> Listed:
    manifest, problems = contents.manifest, list(contents.problems)
    named = manifest.model(), manifest.version()
    if named != (name, number):
        problems.append(f"it is version {named[1]} of {named[0]}")
    signature, signer, reason = _signature(contents, trust)
    if reason is not None:
        problems.append(reason)
    created = manifest.created()
    state: State = "publishing" if not contents.is_complete else "broken" if problems and reason is None else "complete"
    return Listed(
        number,
        state,
        created.isoformat() if created else None,
        contents.size,
        {key: asdict(value) if isinstance(value, Metric) else value for key, value in manifest.metrics().items()},
        manifest.digest(),
        signature,
        signer,
        contents.reference,
        tuple(problems),
        labels,
        served,
    )


def _signature(contents: Contents, trust: Trust | None) -> tuple[Signature, str | None, str | None]:
    """Return how a version is signed, by whom, and why it isn't trusted. The manifest is compared, the files aren't."""
    if contents.signature is None:
        return ("untrusted", None, "it has no signature") if trust else ("none", None, None)
    # The verifier reads files.
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / SIGNATURE).parent.mkdir(parents=True)
        (folder / SIGNATURE).write_bytes(contents.signature)
        try:
            if trust:
                return "matches", verify_signature(folder, contents.manifest, trust), None
            bundle = read_bundle(folder)
        except TrustError as error:
            return "untrusted", None, str(error).replace(f"{folder}/", "").replace(str(folder), "it")
        return "unverified", bundle.claimed if bundle else None, None


def _value(metric: Any) -> float:
    return float(metric["value"] if isinstance(metric, dict) else metric)
