"""The first check: whether TensorFlow computes on this machine's GPU at all."""

from __future__ import annotations

import sys

from tests.gpu.exports import Exports, Models
from tests.gpu.lab import Lab

_PROGRAM = """
import json
import tensorflow as tf
gpus = tf.config.list_physical_devices("GPU")
details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
build = {name: str(value) for name, value in tf.sysconfig.get_build_info().items()}
with tf.device("GPU:0" if gpus else "CPU:0"):
    product = tf.linalg.matmul(tf.ones((8, 8)), tf.ones((8, 8)))
found = {"gpus": details, "build": build, "device": product.device, "product": float(product[0, 0])}
print(json.dumps(found, default=str))
"""


class Machine:
    """What TensorFlow and `doctor` find here."""

    def __init__(self, lab: Lab, _models: Models, _on_cpu: Exports, _on_gpu: Exports) -> None:
        self._lab = lab

    def device(self) -> None:
        """TensorFlow finds the GPU and computes on it; without it all other checks are skipped."""
        record = self._lab.record
        doctor = self._lab.tool("doctor", "--json", most=30)
        record.figure("doctor", doctor.stdout[-4000:])
        growth = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        found = self._lab.run([sys.executable, "-c", _PROGRAM], "device", growth).json()
        record.figure("tensorflow", found)
        # Eight products of ones.
        works = bool(found["gpus"]) and "GPU" in found["device"] and found["product"] == 8.0
        record.claim("TensorFlow computes on the GPU", found["device"], works)
