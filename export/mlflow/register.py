"""Registers a version as a new version of a registered model of MLflow.

    check a copy ──► look for its digest in the registry ──► run, logged model: upload ──► read back ──► register

The version in the registry is created last, so whoever finds it finds all files. A version whose manifest is registered
already is read and compared, and not registered again. MLflow creates versions without conditions: of two registrations
at the same moment, both can become versions.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfserving.export.errors import ExportError
from tfserving.export.manifest import read_manifest
from tfserving.export.mlflow.client import download, mlflow_client
from tfserving.export.mlflow.written import SAVED_MODEL_FOLDER, write_model
from tfserving.foundation.quality import Metric
from tfserving.foundation.temporary import temporary_folder
from tfserving.foundation.trust import Accepted, Trust, accept
from tfserving.foundation.version_files import VersionError

SCHEME = "models:/"
# The tags of a registered version, of its run and of its logged model.
TAG = "tfserving"
_NAME = re.compile(r"[^/:@'\"`\\\x00-\x1f\x7f]{1,200}")
# https://mlflow.org/docs/latest/ml/tracking: names of metrics have these characters.
_NOT_IN_METRICS = re.compile(r"[^\w\-. /:]")
_LONGEST_METRIC = 250
_READY_SECONDS = 120


class RegisterError(ExportError):
    """A version could not be registered. The registry has no new version of the model."""


@dataclass(frozen=True)
class Registered:
    """A version in MLflow's registry. `created` is False when it was there already."""

    uri: str
    created: bool
    digest: str
    run_id: str | None = None
    signed_by: str | None = None
    duration_seconds: float = field(default=0.0, compare=False)

    def __str__(self) -> str:
        if not self.created:
            return f"{self.uri} has this version already, and all its files are the same"
        signed = f", signed by {self.signed_by}" if self.signed_by else ""
        return f"{self.uri}: registered with its run {self.run_id}{signed}, in {self.duration_seconds:.1f} s"


def check_name(destination: str) -> str:
    """Return the name of the registered model in `destination`, models:/NAME. Raises RegisterError."""
    name = destination.removeprefix(SCHEME).strip("/")
    if destination.startswith(SCHEME) and _NAME.fullmatch(name):
        return name
    raise RegisterError(
        f"{destination}: expected models:/NAME with the name of a registered model. MLflow numbers its versions itself."
    )


def register(
    version_folder: Path,
    model: str,
    version: int,
    destination: str,
    trust: Trust | None,
    now: Callable[[str], None] = lambda _: None,
) -> Registered:
    """Register the version in `version_folder`, `version` of `model`, as the next version of `destination`.

    `destination` is models:/NAME. With `trust` the version must be signed. `now` is called with each step. Raises
    RegisterError when the version isn't intact or accepted, or when MLflow fails.
    """
    start = time.monotonic()
    name = check_name(destination)
    now("comparing the files with the manifest")
    with temporary_folder("the MLflow model") as scratch:
        folder = scratch / "model"
        copy = folder / SAVED_MODEL_FOLDER
        accepted = _accepted(version_folder, model, version, trust)
        folder.mkdir()
        shutil.copytree(version_folder, copy, symlinks=True)
        # What is uploaded is what was judged.
        accepted = _accepted(copy, model, version, trust)
        now("importing mlflow")
        with mlflow_client(destination) as mlflow:
            registration = _Registration(mlflow, name, copy, accepted, trust, scratch, now)
            now(f"looking for this version in {destination}")
            found = registration.existing()
            if found is None:
                found = registration.create(folder)
    return Registered(
        f"{SCHEME}{name}/{found.version}",
        registration.created,
        accepted.digest,
        found.run_id or None,
        accepted.signer,
        round(time.monotonic() - start, 3),
    )


class _Registration:
    """One version on its way into the registry. `copy` is the version, which was `accepted`."""

    created = False

    def __init__(
        self,
        mlflow: Any,
        name: str,
        copy: Path,
        accepted: Accepted,
        trust: Trust | None,
        scratch: Path,
        now: Callable[[str], None],
    ) -> None:
        self._mlflow, self._name, self._copy, self._accepted = mlflow, name, copy, accepted
        self._trust, self._scratch, self._now = trust, scratch, now
        self._client = mlflow.MlflowClient()
        self._manifest = read_manifest(copy)
        source = self._manifest.provenance.source
        self._tags = {
            f"{TAG}.model": self._manifest.model,
            f"{TAG}.version": str(self._manifest.version),
            f"{TAG}.manifest": accepted.digest,
            **({f"{TAG}.commit": f"{source.commit}{'+changes' if source.dirty else ''}"} if source else {}),
            **({f"{TAG}.signer": accepted.signer} if accepted.signer else {}),
        }

    def existing(self) -> Any:
        """Return the registered version with this manifest; None when there is none. Raises RegisterError.

        Anybody who can write to the registry can set a tag, so the files are read and compared.
        """
        wanted = f"name='{self._name}' and tags.`{TAG}.manifest`='{self._accepted.digest}'"
        for found in self._client.search_model_versions(wanted):
            if found.status != "READY":
                continue
            uri = f"{SCHEME}{self._name}/{found.version}"
            self._now(f"comparing {uri}")
            self._compare(uri)
            return found
        return None

    def create(self, folder: Path) -> Any:
        """Upload the version as a model in `folder`, and register it; return the registered version."""
        from mlflow.entities import LoggedModelOutput

        run_name = f"{self._manifest.model}/{self._manifest.version}"
        # By default MLflow names the commit of the working folder.
        source = self._manifest.provenance.source
        commit = {"mlflow.source.git.commit": source.commit} if source else {}
        with self._mlflow.start_run(run_name=run_name, tags={**self._tags, **commit}) as run:
            with self._logged_model(run.info) as model:
                write_model(folder, self._manifest, model.model_id, run.info.run_id, self._tags)
                self._now(f"uploading to {model.artifact_location}")
                self._client.log_model_artifacts(model.model_id, str(folder))
                for metric, value in self._manifest.metrics.items():
                    number = value.value if isinstance(value, Metric) else value
                    key = _NOT_IN_METRICS.sub("_", metric)[:_LONGEST_METRIC]
                    self._client.log_metric(run.info.run_id, key, number, model_id=model.model_id)
                self._now("reading the upload back")
                self._compare(f"{SCHEME}{model.model_id}")
            self._client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, 0)])
        self._now(f"registering a version of {self._name}")
        self._create_name()
        self.created = True
        return self._client.create_model_version(
            self._name,
            f"{SCHEME}{model.model_id}",
            run_id=run.info.run_id,
            tags=self._tags,
            model_id=model.model_id,
            await_creation_for=_READY_SECONDS,
        )

    @contextlib.contextmanager
    def _logged_model(self, run: Any) -> Iterator[Any]:
        """Provide a new logged model. It becomes ready when the block ends, and failed when it raises an error."""
        model = self._client.create_logged_model(
            run.experiment_id, name=self._manifest.model, source_run_id=run.run_id, tags=self._tags
        )
        try:
            yield model
        except BaseException:
            with contextlib.suppress(Exception):
                self._client.finalize_logged_model(model.model_id, "FAILED")
            raise
        self._client.finalize_logged_model(model.model_id, "READY")

    def _create_name(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self._name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _compare(self, uri: str) -> None:
        """Raise RegisterError when the model at `uri` has other files than this version."""
        with temporary_folder("the files that MLflow returns") as folder:
            copy = download(uri, folder) / SAVED_MODEL_FOLDER
            found = _accepted(copy, self._manifest.model, self._manifest.version, self._trust, uri)
            if found.digest != self._accepted.digest:
                raise RegisterError(f"{uri} has another version: manifest {found.digest}, not {self._accepted.digest}")


def _accepted(folder: Path, model: str, version: int, trust: Trust | None, where: str = "") -> Accepted:
    try:
        return accept(folder, model, version, trust)
    except VersionError as error:
        raise RegisterError(f"{where}: {error}" if where else str(error)) from None
