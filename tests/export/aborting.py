"""Models that end their process when an input has a wrong rank: one for every operation that does, as export knows it.

    python -m tests.export.aborting < TASKS      runs SavedModels in sessions

A task is a line of JSON, [{"folder", "signature", "feeds": [{input: shape}]}, …], and gets a process of its own. The
answer is a line of JSON, {"ended", "said"}: the exit code or minus the signal, and the error of each feed, or "".
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfserving.export.servable import Servable, Signature, TensorSpec

ROOT = Path(__file__).resolve().parents[2]
Shape = tuple[int, ...]
IMAGE = TensorSpec("float32", (None, 8, 8, 4))
VOLUME = TensorSpec("float32", (None, 4, 4, 4, 2))
ROWS = TensorSpec("float32", (None, 4))


@dataclass(frozen=True)
class Aborting:
    """An operation, a function that runs it on the `inputs`, and the shape of `x` that ends the process.

    Most do only where TensorFlow runs them with oneDNN, which on other processors than x86-64 it doesn't.
    """

    op: str
    function: Callable[..., Any]
    inputs: Mapping[str, TensorSpec]
    wrong: Shape = ()
    only_onednn: bool = True

    @property
    def aborts(self) -> bool:
        """Whether it ends the process on this machine."""
        return not self.only_onednn or platform.machine() == "x86_64"

    @property
    def signature(self) -> Signature:
        """Its signature."""
        return Signature(self._call, self.inputs, ("y",))

    def save(self, folder: Path) -> Path:
        """Writes it to `folder` as TensorFlow alone does."""
        import tensorflow as tf

        specs = {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in self.inputs.items()}
        function = tf.function(self._call).get_concrete_function(**specs)
        tf.saved_model.save(tf.Module(), str(folder), signatures={"serving_default": function})
        return folder

    @property
    def servable(self) -> Servable:
        """It, to be exported."""
        import tensorflow as tf

        return Servable(tf.Module(), {"serving_default": self.signature}, {})

    def feed(self, wrong: bool) -> dict[str, Shape]:
        """Shapes of its inputs that fit, or don't."""
        shapes = {name: fitting(spec) for name, spec in self.inputs.items()}
        return shapes | ({"x": self.wrong} if wrong else {})

    def _call(self, **inputs: Any) -> dict[str, Any]:
        return {"y": self.function(**inputs)}


def fitting(spec: TensorSpec) -> Shape:
    """A shape that `spec` admits."""
    assert spec.shape is not None
    return tuple(2 if size is None else size for size in spec.shape)


def run_apart(*tasks: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Runs the `tasks`, as this module says, with oneDNN."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.export.aborting"],
        input="".join(f"{json.dumps([*task])}\n" for task in tasks),
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "1", "OPENBLAS_NUM_THREADS": "1"},
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def models() -> list[Aborting]:
    """A model for each operation of `tfserving.export.ranks`."""
    import tensorflow as tf

    ops = tf.raw_ops

    def ones(*shape: int) -> Any:
        return tf.ones(shape)

    def quantized(x: Any, dtype: Any = tf.quint8) -> Any:
        return ops.QuantizeV2(input=x, min_range=0.0, max_range=1.0, T=dtype).output

    steps, same = [1, 1, 1, 1], "SAME"
    image, volume, rows = {"x": IMAGE}, {"x": VOLUME}, {"x": ROWS}
    kernel = {"min_input": 0.0, "max_input": 1.0, "strides": steps, "padding": same}
    limits = {"min_filter": 0.0, "max_filter": 1.0}
    return [
        Aborting("Conv2D", lambda x: tf.nn.conv2d(x, ones(3, 3, 4, 2), 1, same), image),
        Aborting("Conv3D", lambda x: tf.nn.conv3d(x, ones(2, 2, 2, 2, 2), [1, *steps], same), volume),
        Aborting("DepthwiseConv2dNative", lambda x: tf.nn.depthwise_conv2d(x, ones(3, 3, 4, 2), steps, same), image),
        Aborting(
            "Conv2DBackpropFilter",
            lambda x: ops.Conv2DBackpropFilter(
                input=x, filter_sizes=[3, 3, 4, 2], out_backprop=ones(2, 8, 8, 2), strides=steps, padding=same
            ),
            image,
        ),
        Aborting(
            "Conv2DBackpropInput",
            lambda x: tf.nn.conv2d_transpose(ones(2, 8, 8, 4), ones(3, 3, 2, 4), [2, 8, 8, 2] * x, 1, same),
            {"x": TensorSpec("int32", (4,))},
            (1, 1),
        ),
        Aborting(
            "Conv3DBackpropFilterV2",
            lambda x: ops.Conv3DBackpropFilterV2(
                input=x, filter_sizes=[2] * 5, out_backprop=ones(2, 4, 4, 4, 2), strides=[1, *steps], padding=same
            ),
            volume,
        ),
        Aborting("MaxPool3D", lambda x: tf.nn.max_pool3d(x, 2, 2, same), volume, (1, 1, 1, 1)),
        Aborting(
            "AvgPoolGrad",
            lambda x: ops.AvgPoolGrad(
                orig_input_shape=[2, 16, 16, 4], grad=x, ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding=same
            ),
            image,
        ),
        Aborting(
            "BiasAdd",
            lambda rows, x: tf.nn.relu(tf.nn.bias_add(tf.matmul(rows, ones(4, 3)), x)),
            {"rows": ROWS, "x": TensorSpec("float32", (3,))},
        ),
        # What Grappler makes of masked attention.
        Aborting(
            "AddV2",
            lambda heads, x: tf.nn.softmax(tf.matmul(heads, heads, transpose_b=True) * 0.5 + x),
            {"heads": TensorSpec("float32", (None, 2, 6, 4)), "x": TensorSpec("float32", (None, 1, 1, 6))},
            (1,),
        ),
        Aborting(
            "FakeQuantWithMinMaxVarsPerChannel",
            lambda x: tf.quantization.fake_quant_with_min_max_vars_per_channel(x, -ones(4), ones(4)),
            rows,
            only_onednn=False,
        ),
        Aborting(
            "CombinedNonMaxSuppression",
            lambda boxes, x: tf.image.combined_non_max_suppression(boxes, x, 3, 3).nmsed_scores,
            {"boxes": TensorSpec("float32", (None, 5, 1, 4)), "x": TensorSpec("float32", (None, 5, 3))},
            (2, 5),
            only_onednn=False,
        ),
        Aborting(
            "LSTMBlockCell",
            lambda x: (
                ops.LSTMBlockCell(
                    x=x,
                    cs_prev=ones(2, 2),
                    h_prev=ones(2, 2),
                    w=ones(6, 8),
                    wci=ones(2),
                    wcf=ones(2),
                    wco=ones(2),
                    b=ones(8),
                ).h
            ),
            rows,
            only_onednn=False,
        ),
        Aborting(
            "QuantizedInstanceNorm",
            lambda x: tf.bitcast(ops.QuantizedInstanceNorm(x=quantized(x), x_min=0.0, x_max=1.0).y, tf.uint8),
            image,
            only_onednn=False,
        ),
        Aborting(
            "QuantizedConv2DWithBias",
            lambda x: tf.bitcast(
                ops.QuantizedConv2DWithBias(
                    input=quantized(x),
                    filter=quantized(ones(3, 3, 4, 2), tf.qint8),
                    bias=ones(2),
                    **kernel,
                    **limits,
                ).output,
                tf.int32,
            ),
            image,
        ),
        Aborting(
            "QuantizedDepthwiseConv2D",
            lambda x: tf.bitcast(
                ops.QuantizedDepthwiseConv2D(
                    input=quantized(x), filter=quantized(ones(3, 3, 4, 1), tf.qint8), **kernel, **limits
                ).output,
                tf.int32,
            ),
            image,
        ),
        Aborting(
            "QuantizedConv2DPerChannel",
            lambda x: tf.bitcast(
                ops.QuantizedConv2DPerChannel(
                    input=quantized(x),
                    filter=quantized(ones(3, 3, 4, 2), tf.qint8),
                    min_filter=tf.zeros(2),
                    max_filter=ones(2),
                    **kernel,
                ).output,
                tf.int32,
            ),
            image,
        ),
    ]


def main() -> None:
    """Runs each task of stdin in a process forked off this one, whose only thread has imported TensorFlow."""
    import tensorflow  # noqa: F401

    import tfserving.serving.embedded.core.session_call  # noqa: F401

    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with os.fdopen(writing, "w", buffering=1) as said:
                    for run in json.loads(line):
                        _run(run, said)
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        with os.fdopen(reading) as said:
            texts = [json.loads(text) for text in said]
        _, status = os.waitpid(child, 0)
        print(json.dumps({"ended": os.waitstatus_to_exitcode(status), "said": texts}), flush=True)


def _run(run: Mapping[str, Any], said: Any) -> None:
    """Runs the signature as the embedded server does, without what that checks before."""
    import tensorflow as tf

    from tfserving.serving.embedded.core.session_call import make_call
    from tfserving.serving.embedded.errors import RequestError

    config = tf.compat.v1.ConfigProto(inter_op_parallelism_threads=-1)
    session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    loaded = tf.compat.v1.saved_model.load(session, ["serve"], run["folder"])
    signature = loaded.signature_def[run["signature"]]
    call = make_call(
        session, [info.name for info in signature.inputs.values()], [info.name for info in signature.outputs.values()]
    )
    for shapes in run["feeds"]:
        arrays = [
            np.full(shapes[name], b"1" if info.dtype == tf.string else 1, tf.as_dtype(info.dtype).as_numpy_dtype)
            for name, info in signature.inputs.items()
        ]
        try:
            call(*arrays)
            text = ""
        except RequestError as error:
            text = f"{error.code.name}: {error}"
        said.write(f"{json.dumps(text)}\n")


if __name__ == "__main__":
    main()
