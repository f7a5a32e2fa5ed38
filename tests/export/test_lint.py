"""The rules: for each a model that breaks it, is refused, and may break it when it is allowed by name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.export import zoo
from tests.export.breaking import BREAKING
from tests.export.conftest import ROOT, Project
from tfserving.export import savedmodel
from tfserving.export.errors import LintError
from tfserving.export.exporter import Exported
from tfserving.export.lint import lint_version
from tfserving.export.servable import Servable, Signature, TensorSpec
from tfserving.foundation.messages import SavedModel
from tfserving.serving.models_yaml.fleet import Rule

Export = Callable[..., Exported]
CASES = [
    pytest.param(rule, builder, id=builder.__name__) for rule, builders in BREAKING.items() for builder in builders
]
# A process without the model's Python can't run it, and TensorFlow itself saves no such variable.
NEVER_PROVEN = ("python-op", "untracked-variable")
# Only running it shows.
NEVER_SEEN = ("empty-request",)


def rules(folder: Path) -> set[str]:
    return {finding.rule for finding in lint_version(folder)}


@pytest.mark.parametrize(("rule", "builder"), CASES)
def test_a_model_that_breaks_a_rule_is_refused_by_its_name(
    export_here: Export, tmp_path: Path, rule: Rule, builder: Callable[[], Servable]
) -> None:
    with pytest.raises(LintError) as refused:
        export_here(builder)
    assert set(re.findall(r"^ *\[([a-z-]+)\]", str(refused.value), re.M)) == {rule}
    assert not (tmp_path / "models/model").exists()


@pytest.mark.parametrize(("rule", "builder"), [case for case in CASES if case.values[0] not in NEVER_PROVEN])
def test_a_model_may_break_a_rule_that_is_allowed_by_name(
    export_here: Export, rule: Rule, builder: Callable[[], Servable]
) -> None:
    exported = export_here(builder, allow=(rule,))
    assert exported.proof.identical
    assert rules(exported.path) == {rule} - {*NEVER_SEEN}


def test_every_rule_is_broken_by_a_model_here_and_has_a_section() -> None:
    headings = re.findall(r"^## `([a-z-]+)`$", (ROOT / "docs/lint.md").read_text(), re.M)
    assert headings == list(get_args(Rule))
    others = {"breaking-change", "no-signature", "not-servable", "unbatched", "unregistered-op"}
    assert {*BREAKING, *others} == set(get_args(Rule))


def test_a_model_that_was_never_built_is_saved_without_a_word_and_found(tmp_path: Path) -> None:
    tf.saved_model.save(zoo.Stack(), str(tmp_path / "empty"))
    (finding,) = lint_version(tmp_path / "empty")
    assert finding.rule == "no-signature"
    assert "it has no signature, so it can't be called" in str(finding)


def test_what_keras_saves_by_itself_breaks_what_it_is_known_for(tmp_path: Path) -> None:
    model = zoo.Stack()
    model(np.zeros((1, 32), np.float32))
    tf.saved_model.save(model, str(tmp_path / "called"))
    found = [str(finding) for finding in lint_version(tmp_path / "called")]
    assert any(text.startswith("[fixed-batch] signature 'serving_default', input ") for text in found), found
    assert any(text.startswith("[made-up-name] signature 'serving_default', output 'output_0'") for text in found)
    # Its variables are there for functions only: a server, which runs a session, finds them uninitialised.
    assert any(text.startswith("[untracked-variable] signature 'serving_default'") for text in found)
    session = tf.compat.v1.Session(graph=tf.Graph())
    signature = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path / "called")).signature_def
    (answer,), (asked,) = (getattr(signature["serving_default"], kind).values() for kind in ("outputs", "inputs"))
    with pytest.raises(tf.errors.FailedPreconditionError):
        session.run(answer.name, {asked.name: np.zeros((1, 32), np.float32)})


def test_a_keras_model_exported_by_keras_has_made_up_names(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.export(tmp_path / "archive", verbose=False)
    assert rules(tmp_path / "archive") == {"made-up-name"}


def test_an_operation_that_no_server_has_is_found(export_here: Export) -> None:
    # One operation is renamed to something that nobody registered.
    path = export_here(zoo.scale).path / "saved_model.pb"
    saved = SavedModel.FromString(path.read_bytes())
    for function in saved.meta_graphs[0].graph_def.library.function:
        for node in function.node_def:
            node.op = node.op.replace("Mul", "CompanyFusedMul")
    path.write_bytes(saved.SerializeToString())
    (finding,) = lint_version(path.parent)
    assert str(finding).startswith(
        "[unregistered-op] signature 'serving_default': TensorFlow Serving lacks the operation CompanyFusedMul (mul)"
    )


def test_a_variable_that_no_load_restores_is_found(export_here: Export) -> None:
    # As graphs of TensorFlow 1 have them when their saver left some out.
    path = export_here(zoo.scale).path / "saved_model.pb"
    saved = SavedModel.FromString(path.read_bytes())
    saved.meta_graphs[0].saver_def.restore_op_name = ""
    path.write_bytes(saved.SerializeToString())
    (finding,) = lint_version(path.parent)
    assert finding.rule == "untracked-variable"
    assert "which have no value after the version is loaded" in str(finding)


def two_signatures() -> Servable:
    module = zoo.Scale()
    first = zoo.servable(module, lambda rows: {"scaled": rows * module.factor, "rows": rows}, ("scaled", "rows"))
    other = Signature(
        lambda rows: {"sums": tf.reduce_sum(rows, axis=1)}, first.signatures["serving_default"].inputs, ("sums",)
    )
    return Servable(
        module,
        {**first.signatures, "sums": other},
        {"serving_default": {"rows": zoo.ROWS}, "sums": {"rows": zoo.ROWS}},
    )


def changed(**parts: Any) -> Callable[[], Servable]:
    def build() -> Servable:
        servable = two_signatures()
        signature = replace(servable.signatures["serving_default"], **parts.get("signature", {}))
        signatures = {
            "serving_default": signature,
            **({} if "sums" in parts else {"sums": servable.signatures["sums"]}),
        }
        examples = {"rows": zoo.ROWS} | parts.get("examples", {})
        return Servable(
            servable.module,
            signatures,
            {name: examples if name == "serving_default" else {"rows": zoo.ROWS} for name in signatures},
        )

    return build


def three_columns(rows: Any) -> dict[str, Any]:
    columns = tf.ensure_shape(rows[:, :3], (None, 3))
    return {"scaled": columns, "rows": columns}


WEIGHT = {"rows": TensorSpec("float32", (None, 3)), "weight": TensorSpec("float32", (None,))}
ONES = {"weight": np.ones(len(zoo.ROWS), np.float32)}


def weighted(rows: Any, weight: Any) -> dict[str, Any]:
    return {"scaled": rows * weight[:, tf.newaxis], "rows": rows}


@pytest.mark.parametrize(
    ("builder", "problem"),
    [
        (changed(sums="gone"), "signature 'sums': removed"),
        (
            changed(signature={"function": lambda rows: {"scaled": rows}, "outputs": ("scaled",)}),
            "signature 'serving_default': output 'rows' removed",
        ),
        (
            changed(signature={"function": weighted, "inputs": WEIGHT}, examples=ONES),
            "signature 'serving_default': required input 'weight' added",
        ),
        (
            changed(signature={"function": lambda rows: {"scaled": tf.cast(rows, tf.float64), "rows": rows}}),
            "signature 'serving_default': output 'scaled' changed from float32 (?, 3) to float64 (?, 3)",
        ),
    ],
    ids=["signature", "output", "input", "dtype"],
)
def test_a_change_that_breaks_clients_needs_to_be_called_breaking(
    export_here: Export, builder: Callable[[], Servable], problem: str
) -> None:
    export_here(two_signatures)
    with pytest.raises(LintError) as refused:
        export_here(builder)
    assert f"[breaking-change] {problem}" in str(refused.value)
    exported = export_here(builder, allow=("breaking-change",))
    assert exported.version == 2
    assert rules(exported.path) == {"breaking-change"}


@pytest.mark.parametrize(
    "builder",
    [
        two_signatures,
        changed(signature={"function": three_columns, "inputs": {"rows": TensorSpec("float32", (None, None))}}),
        changed(
            signature={"function": weighted, "inputs": WEIGHT, "defaults": {"weight": np.ones(1, np.float32)}},
            examples=ONES,
        ),
    ],
    ids=["none", "wider input", "optional input"],
)
def test_a_change_that_breaks_nobody_passes(export_here: Export, builder: Callable[[], Servable]) -> None:
    export_here(two_signatures)
    assert rules(export_here(builder).path) == set()


def test_a_signature_more_breaks_nobody(export_here: Export) -> None:
    export_here(changed(sums="gone"))
    assert rules(export_here(two_signatures).path) == set()


def test_lint_tells_what_is_wrong_and_how_to_mend_it(project: Project, tmp_path: Path) -> None:
    model = zoo.Stack()
    model(np.zeros((1, 32), np.float32))
    tf.saved_model.save(model, str(tmp_path / "called"))
    done = project.run("lint", str(tmp_path / "called"))
    assert done.returncode == 1, done.stderr
    assert re.search(
        r"^  note: \[fixed-batch\] signature 'serving_default', input '\w+': its shape \(1, 32\) fixes the first "
        r"dimension, the batch\. Declare \(\?, 32\), .* declare the signature with batched=False\.$",
        done.stdout,
        re.M,
    )
    assert re.search(r"^  \[untracked-variable\] signature 'serving_default': it uses the variab", done.stdout, re.M)
    names = [f"--allow={rule}" for rule in ("fixed-batch", "made-up-name", "untracked-variable")]
    allowed = project.run("lint", str(tmp_path / "called"), *names)
    assert (allowed.returncode, allowed.stdout) == (0, "called: no findings\n")
    (found,) = json.loads(project.run("lint", str(tmp_path / "called"), "--json").stdout)["versions"]
    assert [set(finding) for finding in found["findings"]] == [{"rule", "where", "problem", "remedy"}]
    assert found["findings"][0]["rule"] == "untracked-variable"
    assert {note.partition(" ")[0] for note in found["notes"]} == {"[fixed-batch]", "[made-up-name]"}


def test_models_yaml_allows_a_model_to_break_a_rule(project: Project) -> None:
    shutil.copy(ROOT / "tests/export/breaking.py", project.folder)
    text = (project.folder / "breaking.py").read_text().replace("from tests.export.zoo", "from zoo")
    (project.folder / "breaking.py").write_text(text)
    fleet = "models:\n  prices:\n    builder: breaking:int_input\n"
    (project.folder / "models.yaml").write_text(fleet)
    refused = project.run("build")
    assert refused.returncode == 1
    assert "Error: prices was not exported: [int-input] signature 'serving_default', input 'prices': it is int32" in (
        refused.stderr
    )
    assert "docs/lint.md explains the rules. `allow: [RULE]` in models.yaml accepts a broken rule." in refused.stderr
    (project.folder / "models.yaml").write_text(f"{fleet}    allow: [int-input]\n")
    done = project.run("build")
    assert done.returncode == 0, done.stderr
    assert project.run("lint").stdout == "models/prices/1: no findings\n"
    (project.folder / "models.yaml").write_text(f"{fleet}    allow: [int-inputs]\n")
    wrong = project.run("lint")
    assert wrong.returncode == 2
    assert re.search(r"models\.yaml:4: models\.prices\.allow\.0: .*Did you mean 'int-input'", wrong.stderr)


def test_the_newest_version_of_every_model_is_judged(exported: Project) -> None:
    done = exported.run("lint")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"models/scale/\d+: no findings\n", done.stdout)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["lint", "nowhere"], "'nowhere' is neither a model nor the folder of a SavedModel."),
        (
            ["lint", "--allow", "everything"],
            "--allow everything: there is no such rule. The rules are breaking-change, ",
        ),
    ],
    ids=["folder", "rule"],
)
def test_what_cannot_be_judged_is_wrong_usage(project: Project, arguments: list[str], problem: str) -> None:
    done = project.run(*arguments)
    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_savedmodel_is_an_error_of_one_line(project: Project, tmp_path: Path) -> None:
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/saved_model.pb").write_bytes(b"no protobuf")
    done = project.run("lint", str(tmp_path / "damaged"))
    assert done.returncode == 2
    assert done.stderr == f"Error: {tmp_path}/damaged/saved_model.pb is damaged, or it is not a SavedModel\n"


def test_a_graph_that_calls_what_it_does_not_have_is_an_error_of_one_line(project: Project, copied: Path) -> None:
    path = copied / "saved_model.pb"
    saved = SavedModel.FromString(path.read_bytes())
    del saved.meta_graphs[0].graph_def.library.function[:]
    path.write_bytes(saved.SerializeToString())
    done = project.run("lint", str(copied))
    assert done.returncode == 2
    assert re.fullmatch(
        r"Error: \S+/saved_model.pb: \w+ \(\w+\) calls '\w+', which is not a function of the graph\n", done.stderr
    )


def test_methods_written_are_those_that_are_read(tmp_path: Path) -> None:
    servable = zoo.texts()
    savedmodel.write_savedmodel(servable, savedmodel.trace(servable), tmp_path)
    assert lint_version(tmp_path) == []
