"""A store of MLflow in a folder, which the package mlflow-skinny supports. Nothing is sent anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tfserving.export.mlflow.client import mlflow_client


def use(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Has commands find the store in `folder` as MLflow's own tools do."""
    patch.setenv("MLFLOW_TRACKING_URI", folder.as_uri())
    patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


def log(folder: Path, name: str, **tags: str) -> tuple[str, str]:
    """Logs the model in `folder` in a run, and registers it as `name`; returns the URI of both."""
    with mlflow_client("the test") as mlflow:
        client = mlflow.MlflowClient()
        run = client.create_run("0").info.run_id
        client.log_artifacts(run, str(folder), "model")
        if not client.search_registered_models(f"name='{name}'"):
            client.create_registered_model(name)
        version = client.create_model_version(name, f"runs:/{run}/model", run_id=run, tags=tags).version
        client.set_registered_model_alias(name, "best", version)
    return f"models:/{name}/{version}", f"runs:/{run}/model"


def versions(name: str) -> list[Any]:
    """The registered versions of `name`, oldest first."""
    with mlflow_client("the test") as mlflow:
        found = mlflow.MlflowClient().search_model_versions(f"name='{name}'")
    return sorted(found, key=lambda one: int(one.version))
