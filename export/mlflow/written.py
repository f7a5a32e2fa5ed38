"""The folder of an MLflow model around a version: MLmodel, and what MLflow installs to load it.

`mlflow.tensorflow.load_model` and `mlflow.pyfunc.load_model` load it, and `mlflow models serve` serves it.
https://mlflow.org/docs/latest/ml/model/#storage-format
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from tfserving.export.given import DEFAULT
from tfserving.export.manifest import Manifest, ServedSignature
from tfserving.export.mlflow.model import MLMODEL
from tfserving.export.servable import TensorSpec
from tfserving.foundation.manifest import TENSORFLOWS

SAVED_MODEL_FOLDER = "saved_model"
_REQUIREMENTS = "requirements.txt"
_ENVIRONMENT = "python_env.yaml"


def write_model(folder: Path, manifest: Manifest, model_id: str, run_id: str, metadata: Mapping[str, str]) -> None:
    """Write the files of an MLflow model to `folder`, beside the version in its `saved_model`.

    MLflow is installed. Raises OSError.
    """
    import mlflow
    import yaml
    from mlflow.models import Model

    packages = manifest.provenance.packages
    needed = [f"mlflow=={mlflow.__version__}"]
    needed += [f"{name}=={packages[name]}" for name in (*TENSORFLOWS, "keras", "numpy") if name in packages]
    model = Model(run_id=run_id, model_uuid=model_id, model_id=model_id, metadata=dict(metadata))
    name = DEFAULT if DEFAULT in manifest.signatures else next(iter(manifest.signatures), None)
    signature = manifest.signatures[name] if name else None
    # With this type MLflow calls a signature by name. The other one, for tf.Module, calls the object itself, which a
    # version has no function for: `_load_pyfunc` of https://github.com/mlflow/mlflow, mlflow/tensorflow/__init__.py
    flavor = {"model_type": "tf1-estimator", "meta_graph_tags": ["serve"], "signature_def_key": name or DEFAULT}
    model.add_flavor("tensorflow", code=None, saved_model_dir=SAVED_MODEL_FOLDER, **flavor)
    python = manifest.provenance.python
    model.add_flavor(
        "python_function",
        loader_module="mlflow.tensorflow",
        python_version=python,
        env={"virtualenv": _ENVIRONMENT},
    )
    content: dict[str, Any] = model.to_dict()
    content["utc_time_created"] = str(datetime.now(timezone.utc).replace(tzinfo=None))
    if signature and (described := _described(signature)):
        content["signature"] = described
    (folder / _REQUIREMENTS).write_text("".join(f"{line}\n" for line in needed))
    environment = {"python": python, "build_dependencies": ["pip"], "dependencies": [f"-r {_REQUIREMENTS}"]}
    (folder / _ENVIRONMENT).write_text(yaml.safe_dump(environment, sort_keys=False))
    (folder / MLMODEL).write_text(yaml.safe_dump(content))


def _described(signature: ServedSignature) -> dict[str, Any] | None:
    """Return a signature as MLflow writes it; None when MLflow has no such dtype or shape."""
    from mlflow.types.schema import Schema

    inputs = [_tensor(name, spec, optional=name in signature.optional) for name, spec in signature.inputs.items()]
    outputs = [_tensor(name, spec) for name, spec in signature.outputs.items()]
    if None in inputs or None in outputs:
        return None
    return {"inputs": Schema(inputs).to_json(), "outputs": Schema(outputs).to_json(), "params": None}


def _tensor(name: str, spec: TensorSpec, *, optional: bool = False) -> Any:
    """Return MLflow's description of a tensor; None for a dtype that numpy alone lacks, and for an unknown rank."""
    from mlflow.types.schema import TensorSpec as MlflowSpec

    # MLflow has no optional tensors.
    if spec.shape is None or optional:
        return None
    try:
        dtype = np.dtype("str" if spec.dtype == "string" else spec.dtype)
    except TypeError:
        return None
    # Types of other packages are not known where they are not imported.
    if dtype.isbuiltin != 1:
        return None
    return MlflowSpec(dtype, tuple(-1 if size is None else size for size in spec.shape), name)
