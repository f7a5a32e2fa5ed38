"""TensorFlow Serving's protobuf messages, without TensorFlow.

The descriptors come from tensorflow-serving-api (`generate.py` writes them) and live in a private pool, so that this
package and TensorFlow's own generated modules can be used in one process: both define the same names, and protobuf
refuses a second definition in the default pool. A message of this pool and one of TensorFlow's are different
classes; their serialized bytes are interchangeable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

POOL = DescriptorPool()
for _file in FileDescriptorSet.FromString(Path(__file__).with_name("descriptors.binpb").read_bytes()).file:
    POOL.Add(_file)


def message(full_name: str) -> Any:
    """The class of the message called `full_name`, for example `tensorflow.serving.PredictRequest`.

    Raises KeyError when TensorFlow Serving's API has no such message.
    """
    return GetMessageClass(POOL.FindMessageTypeByName(full_name))


BundleEntryProto = message("tensorflow.BundleEntryProto")
BundleHeaderProto = message("tensorflow.BundleHeaderProto")
ClassificationRequest = message("tensorflow.serving.ClassificationRequest")
ClassificationResponse = message("tensorflow.serving.ClassificationResponse")
Example = message("tensorflow.Example")
GetModelMetadataRequest = message("tensorflow.serving.GetModelMetadataRequest")
GetModelMetadataResponse = message("tensorflow.serving.GetModelMetadataResponse")
GetModelStatusRequest = message("tensorflow.serving.GetModelStatusRequest")
GetModelStatusResponse = message("tensorflow.serving.GetModelStatusResponse")
ModelServerConfig = message("tensorflow.serving.ModelServerConfig")
ModelSpec = message("tensorflow.serving.ModelSpec")
MultiInferenceRequest = message("tensorflow.serving.MultiInferenceRequest")
MultiInferenceResponse = message("tensorflow.serving.MultiInferenceResponse")
ModelVersionStatus = message("tensorflow.serving.ModelVersionStatus")
PredictionLog = message("tensorflow.serving.PredictionLog")
PredictRequest = message("tensorflow.serving.PredictRequest")
PredictResponse = message("tensorflow.serving.PredictResponse")
RegressionRequest = message("tensorflow.serving.RegressionRequest")
RegressionResponse = message("tensorflow.serving.RegressionResponse")
ReloadConfigRequest = message("tensorflow.serving.ReloadConfigRequest")
ReloadConfigResponse = message("tensorflow.serving.ReloadConfigResponse")
SavedModel = message("tensorflow.SavedModel")
SignatureDef = message("tensorflow.SignatureDef")
SignatureDefMap = message("tensorflow.serving.SignatureDefMap")
TensorProto = message("tensorflow.TensorProto")
TensorShapeProto = message("tensorflow.TensorShapeProto")
TrackableObjectGraph = message("tensorflow.TrackableObjectGraph")
