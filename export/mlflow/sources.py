"""What `saved_model` names: a SavedModel, an MLflow model, or the URI of one."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from tfserving.export.errors import ExportError
from tfserving.export.exporter import Target
from tfserving.export.findings import FOR_CLIENTS
from tfserving.export.mlflow.client import download
from tfserving.export.mlflow.keras_model import BUILDER
from tfserving.export.mlflow.model import MLMODEL, MlflowModel, read_model
from tfserving.foundation.command.progress import Progress
from tfserving.foundation.golden import SAVED_MODEL
from tfserving.foundation.temporary import temporary_folder
from tfserving.serving.models_yaml.patterns import is_mlflow_uri


def with_mlflow(target: Target, folders: ExitStack) -> Target:
    """Return `target` with the SavedModel or Keras file of the MLflow model that it names; others as they are.

    What a URI names is downloaded into a temporary folder, which `folders` removes. Raises ExportError when there is no
    such model, or when it is no model of TensorFlow.
    """
    source = target.saved_model
    if source is None:
        return target
    folder, where = source, str(source.resolve())
    if is_mlflow_uri(source):
        where = str(source)
        with Progress() as progress:
            progress.update(f"{target.model}: downloading {source}")
            folder = download(where, folders.enter_context(temporary_folder(f"the model {source}")))
        if (folder / SAVED_MODEL).is_file():
            # The URI names the SavedModel in a model of MLflow.
            return replace(target, saved_model=folder, mlflow=MlflowModel(folder, None, where))
        if not (folder / MLMODEL).is_file():
            raise ExportError(f"{where} is neither an MLflow model nor a SavedModel: it has no {MLMODEL}")
    elif not (folder / MLMODEL).is_file():
        return target
    model = read_model(folder, where)
    if not model.is_keras:
        return replace(target, saved_model=model.path, mlflow=model)
    # The names and dtypes are those of somebody else's model.
    allow = (*target.allow, *FOR_CLIENTS)
    return replace(target, saved_model=None, builder=BUILDER, mlflow=model, allow=allow)
