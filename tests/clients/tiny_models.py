"""Writes the models that the clients' tests serve.

Each version carries golden requests, answered by the module that was saved, and a manifest.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfserving.foundation.examples import read_examples
from tfserving.foundation.golden import MANIFEST, RECORDS
from tfserving.foundation.messages import PredictionLog
from tfserving.foundation.records import write_records
from tfserving.foundation.tensors import Array, to_proto


def spec(dtype: Any, *shape: int | None) -> Any:
    return tf.TensorSpec(shape, dtype)


class Scale(tf.Module):  # type: ignore[misc]
    """Signatures of several types; the default one multiplies by the version's factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.weights = tf.Variable(factor * np.eye(3, dtype=np.float32))
        rows = spec(tf.float32, None, 3)
        self.functions = {
            "serving_default": self.signature(self.scaled, x=rows),
            "positive": self.signature(self.positive, x=rows),
            "upper": self.signature(self.upper, s=spec(tf.string, None)),
            "two": self.signature(self.two, a=spec(tf.float32, None), n=spec(tf.int32, None)),
            "same64": self.signature(self.same, x=spec(tf.float64, None)),
            "unsigned": self.signature(self.same, x=spec(tf.uint64, None)),
            "short": self.signature(self.same, x=spec(tf.uint16, None)),
            "flags": self.signature(self.same, x=spec(tf.bool, None, 2)),
            "single": self.signature(self.same, x=spec(tf.float32)),
            "complex": self.signature(self.same, x=spec(tf.complex64, None)),
        }

    def signature(self, function: Any, **inputs: Any) -> Any:
        return tf.function(function).get_concrete_function(
            **{name: tf.TensorSpec(it.shape, it.dtype, name=name) for name, it in inputs.items()}
        )

    def scaled(self, x: Any) -> Any:
        scaled = tf.matmul(x, self.weights)
        return {"scaled": scaled, "total": tf.reduce_sum(scaled, 1)}

    def positive(self, x: Any) -> Any:
        return {"rows": tf.boolean_mask(x, x[:, 0] > 0)}

    def upper(self, s: Any) -> Any:
        return {"text": tf.strings.upper(s), "raw_bytes": tf.strings.join([s, tf.constant(b"\x00\xff")])}

    def two(self, a: Any, n: Any) -> Any:
        return {"sum": a + tf.cast(n, tf.float32), "twice": 2 * n}

    def same(self, x: Any) -> Any:
        return {"y": tf.identity(x)}


class Length(tf.Module):  # type: ignore[misc]
    """How long strings are."""

    def __init__(self) -> None:
        super().__init__()
        self.functions = {
            "serving_default": tf.function(lambda s: {"length": tf.strings.length(s)}).get_concrete_function(
                s=tf.TensorSpec([None], tf.string, name="s")
            )
        }


class Centred(tf.Module):  # type: ignore[misc]
    """What a row has more than the mean of all in its batch: its answers can't be batched."""

    def __init__(self) -> None:
        super().__init__()
        self.functions = {
            "serving_default": tf.function(lambda x: {"y": x - tf.reduce_mean(x, 0)}).get_concrete_function(
                x=tf.TensorSpec([None, 3], tf.float32, name="x")
            )
        }


class Flowers(tf.Module):  # type: ignore[misc]
    """Signatures on serialized tf.Examples with the features `length` (1 by default) and `name`."""

    def __init__(self) -> None:
        super().__init__()
        examples = tf.TensorSpec([None], tf.string, name="inputs")
        self.functions = {
            name: tf.function(function).get_concrete_function(inputs=examples)
            for name, function in (("serving_default", self.classified), ("length", self.measured))
        }

    def parsed(self, inputs: Any) -> Any:
        length = tf.io.FixedLenFeature([], tf.float32, 1.0)
        return tf.io.parse_example(inputs, {"length": length, "name": tf.io.FixedLenFeature([], tf.string, "?")})

    def classified(self, inputs: Any) -> Any:
        parsed = self.parsed(inputs)
        classes = tf.stack([parsed["name"], tf.fill(tf.shape(parsed["name"]), "other")], 1)
        return {"classes": classes, "scores": tf.stack([parsed["length"], 1 / parsed["length"]], 1)}

    def measured(self, inputs: Any) -> Any:
        return {"outputs": 3 * self.parsed(inputs)["length"]}


def tf32(values: Any) -> Any:
    """Float32 `values` with 10 bits of mantissa: what a GPU multiplies that computes in TF32."""
    # Half of the last bit that stays is added, and the 13 bits behind it are cut.
    return tf.bitcast(tf.bitwise.bitwise_and(tf.bitcast(values, tf.int32) + 0x1000, ~0x1FFF), tf.float32)


class Classifier(tf.Module):  # type: ignore[misc]
    """Scores of 8 classes, the best one as a number and by name, and the best three; in TF32 or not."""

    def __init__(self, *, rounded: bool) -> None:
        super().__init__()
        self.weights = tf.Variable(np.random.default_rng(2).normal(size=(16, 8)).astype(np.float32))
        self.rounded = rounded
        x = tf.TensorSpec([None, 16], tf.float32, name="x")
        self.functions = {
            "serving_default": tf.function(self.classified).get_concrete_function(x),
            "label": tf.function(lambda x: {"label": self.classified(x)["label"]}).get_concrete_function(x=x),
            "best": tf.function(self.best).get_concrete_function(x),
        }

    def scores(self, x: Any) -> Any:
        return tf.matmul(tf32(x), tf32(self.weights)) if self.rounded else tf.matmul(x, self.weights)

    def classified(self, x: Any) -> Any:
        scores = self.scores(x)
        label = tf.argmax(scores, 1)
        return {"scores": scores, "label": label, "name": tf.strings.join(["class ", tf.strings.as_string(label)])}

    def best(self, x: Any) -> Any:
        scores, indices = tf.math.top_k(self.scores(x), 3)
        return {"best_scores": scores, "best": indices}


def save(module: Any, folder: Path, golden: Mapping[str, list[dict[str, Array]]]) -> None:
    """Writes `module` and, for the inputs in `golden`, its requests with the module's answers."""
    tf.saved_model.save(module, str(folder), signatures=module.functions)
    records = []
    for signature, requests in golden.items():
        for inputs in requests:
            log = PredictionLog()
            request, response = log.predict_log.request, log.predict_log.response
            request.model_spec.name = folder.parent.name
            request.model_spec.signature_name = signature
            answers = module.functions[signature](**{name: tf.constant(array) for name, array in inputs.items()})
            for name, array in inputs.items():
                request.inputs[name].CopyFrom(to_proto(array))
            for name, answer in answers.items():
                response.outputs[name].CopyFrom(to_proto(np.asarray(answer.numpy())))
            records.append(log.SerializeToString())
    finish(folder, records)


def save_rounded(folder: Path) -> None:
    """Writes a Classifier that computes in TF32, with the golden requests of one that does not.

    Of the second request of each signature, some labels are others under TF32.
    """
    exact, rounded = Classifier(rounded=False), Classifier(rounded=True)
    rows = np.random.default_rng(3).normal(size=(100_000, 16)).astype(np.float32)
    answers = [module.functions["serving_default"](x=tf.constant(rows)) for module in (exact, rounded)]
    labels = [answer["label"].numpy() for answer in answers]
    flipped, same = (rows[places][:4] for places in (labels[0] != labels[1], labels[0] == labels[1]))
    assert len(flipped) == 4
    some = [{"x": same}, {"x": np.concatenate([same[:2], flipped])}]
    save(exact, folder, dict.fromkeys(exact.functions, some))
    records = (folder / RECORDS).read_bytes()
    shutil.rmtree(folder)
    save(rounded, folder, {})
    (folder / RECORDS).write_bytes(records)
    sets = {"cpu": (1e-5, 1e-5, 0.0), "gpu-tf32": (0.0, 0.0, 2e-3)}
    write_manifest(folder, sets)


def save_flowers(folder: Path) -> None:
    """Writes a version of Flowers with golden requests to classify and to regress."""
    module = Flowers()
    tf.saved_model.save(module, str(folder), signatures=module.functions)
    examples = read_examples([{"length": 0.25, "name": "rose"}, {"length": [1.5]}, {}])
    serialized = tf.constant([example.SerializeToString() for example in examples.examples])
    classify, regress = PredictionLog(), PredictionLog()
    for log, signature in ((classify.classify_log, "serving_default"), (regress.regress_log, "length")):
        log.request.model_spec.name, log.request.model_spec.signature_name = folder.parent.name, signature
        examples.write(log.request.input)
    answer = module.functions["serving_default"](inputs=serialized)
    for labels, scores in zip(answer["classes"].numpy().tolist(), answer["scores"].numpy().tolist(), strict=True):
        row = classify.classify_log.response.result.classifications.add()
        for label, score in zip(labels, scores, strict=True):
            row.classes.add(label=label.decode(), score=score)
    for value in module.functions["length"](inputs=serialized)["outputs"].numpy().tolist():
        regress.regress_log.response.result.regressions.add(value=value)
    finish(folder, [classify.SerializeToString(), regress.SerializeToString()])


def save_shared(folder: Path) -> None:
    """Writes a version of Flowers whose signatures have one input tensor, as multi-inference needs it."""
    v1 = tf.compat.v1
    module = Flowers()
    with tf.Graph().as_default(), v1.Session() as session:
        inputs = v1.placeholder(tf.string, [None], "inputs")
        classified, measured = module.classified(inputs), module.measured(inputs)
        signatures = {
            "serving_default": v1.saved_model.classification_signature_def(
                inputs, classified["classes"], classified["scores"]
            ),
            "length": v1.saved_model.regression_signature_def(inputs, measured["outputs"]),
        }
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()


def finish(folder: Path, records: list[bytes]) -> None:
    """Writes golden requests and the manifest of the version in `folder`."""
    (folder / RECORDS).parent.mkdir(exist_ok=True)
    write_records(folder / RECORDS, records)
    write_manifest(folder, {"cpu": (1e-6, 1e-5, 0.0)})


def write_manifest(folder: Path, tolerances: Mapping[str, tuple[float, float, float]]) -> None:
    """Writes the manifest of a version with golden requests; `tolerances` are those of float32 by kind of device."""
    digest = hashlib.sha256((folder / RECORDS).read_bytes()).hexdigest()
    names = ("absolute", "relative", "scale")
    manifest = {
        "tolerances": {device: {"float32": dict(zip(names, one, strict=True))} for device, one in tolerances.items()},
        "files": {RECORDS: {"sha256": digest}},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))


def write(folder: Path) -> None:
    """Writes all models into `folder`."""
    rows = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    golden: dict[str, list[dict[str, Array]]] = {
        "serving_default": [{"x": rows}, {"x": rows[:1]}],
        "positive": [{"x": -np.abs(rows)}],
        "upper": [{"s": np.array([b"a", "ü".encode()], np.object_)}],
        "two": [{"a": rows[:, 0], "n": np.arange(5, dtype=np.int32)}],
    }
    for version, factor in ((1, 2.0), (2, 3.0)):
        save(Scale(factor), folder / "scale" / str(version), golden)
    save(Length(), folder / "words" / "1", {"serving_default": [{"s": np.array([b"four", b""], np.object_)}]})
    save(Centred(), folder / "centred" / "1", {"serving_default": [{"x": rows}, {"x": rows[:2]}]})
    save_flowers(folder / "flowers" / "1")
    save_shared(folder / "shared" / "1")
    save_rounded(folder / "rounded" / "1")
    # The weights of one version, the golden requests of another.
    shutil.copytree(folder / "scale" / "1", folder / "tampered" / "1")
    shutil.rmtree(folder / "tampered" / "1" / "variables")
    shutil.copytree(folder / "scale" / "2" / "variables", folder / "tampered" / "1" / "variables")
    # Models to which tests add versions.
    shutil.copytree(folder / "scale" / "1", folder / "moving" / "1")
    shutil.copytree(folder / "words" / "1", folder / "breaking" / "1")
