"""MLflow's client: loaded only when it is needed, without telemetry, and with errors in a sentence.

The tracking server and the registry are those of MLflow's own tools: MLFLOW_TRACKING_URI and MLFLOW_REGISTRY_URI.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tfserving.export.errors import ExportError
from tfserving.foundation.extras import missing_for

TRACKING = "MLFLOW_TRACKING_URI"
# A server that can't be reached is reported within a minute; MLflow's defaults take several.
_DEFAULTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
# The toolkit shows its own progress.
_DEFAULTS |= {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "MLFLOW_LOGGING_LEVEL": "WARNING"}
# https://mlflow.org/docs/latest/community/usage-tracking
_TELEMETRY = "MLFLOW_DISABLE_TELEMETRY"
_LONGEST = 500
_CREDENTIALS = re.compile(r"//[^/@\s]+@")


@contextmanager
def mlflow_client(what: str) -> Iterator[Any]:
    """Provide MLflow's package for `what`, a text such as a URI. Its errors become ExportErrors that name it.

    Importing it takes seconds. MLflow sends usage data by default; nothing is sent from here.
    """
    for name, value in {**_DEFAULTS, _TELEMETRY: "true"}.items():
        os.environ.setdefault(name, value)
    try:
        import mlflow
        import mlflow.artifacts
        from mlflow.exceptions import MlflowException
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mlflow":
            raise
        raise ExportError(missing_for("mlflow", what)) from None
    try:
        # It prints the addresses of runs; stdout is for results.
        with contextlib.redirect_stdout(sys.stderr):
            yield mlflow
    except MlflowException as error:
        raise ExportError(f"{what}: {_sentence(error)} {_hint()}") from None
    except OSError as error:
        raise ExportError(f"{what}: {error.strerror or error}") from None


def download(uri: str, folder: Path) -> Path:
    """Download the artifacts of `uri`, such as models:/digits/3, into `folder`. Return where they are in it.

    Raises ExportError when MLflow isn't installed, or there is no such model.
    """
    with mlflow_client(uri) as mlflow:
        found = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))
    if not found.is_dir():
        raise ExportError(f"{uri} is a file. Name the folder of an MLflow model or of a SavedModel.")
    return found


def _sentence(error: Exception) -> str:
    # A URI of the environment may have a password.
    text = _CREDENTIALS.sub("//***@", " ".join(str(error).split()))
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return text if text.endswith((".", "…")) else f"{text}."


def _hint() -> str:
    """Return where MLflow looked."""
    if uri := os.environ.get(TRACKING):
        return f"{TRACKING} is {_CREDENTIALS.sub('//***@', uri)}."
    return f"{TRACKING} is not set; set it to the URL of MLflow's server."
