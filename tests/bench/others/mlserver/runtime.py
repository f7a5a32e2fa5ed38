"""An MLServer runtime for a SavedModel, as MLServer's documentation has one written: MLServer itself has none.

`parameters.uri` in model-settings.json names the folder of a SavedModel whose default signature has one input `x`.
"""

from __future__ import annotations

import tensorflow as tf
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class SavedModel(MLModel):
    """A SavedModel's default signature."""

    async def load(self) -> bool:
        """Loads the model."""
        self._model = tf.saved_model.load(self.settings.parameters.uri)
        self._signature = self._model.signatures["serving_default"]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Runs the signature."""
        rows = NumpyCodec.decode_input(payload.inputs[0])
        outputs = self._signature(x=tf.constant(rows))
        encoded = [NumpyCodec.encode_output(name, output.numpy()) for name, output in outputs.items()]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=encoded)
