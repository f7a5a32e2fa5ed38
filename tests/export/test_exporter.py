"""One export: what is refused leaves nothing, what is proved is published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.export import zoo
from tests.export.conftest import is_complete
from tfserving.export.errors import BuilderError, ExportError, LintError, ProofError, ServableError
from tfserving.export.exporter import Exported
from tfserving.export.servable import Servable
from tfserving.foundation.golden import read_golden

Export = Callable[[Callable[[], Servable]], Exported]


def test_a_keras_model_becomes_a_version_that_answers_as_it_does(export_here: Export) -> None:
    exported = export_here(zoo.trained)
    assert (exported.version, exported.path.name) == (1, "1")
    assert exported.proof.identical
    assert exported.proof.requests == len(read_golden(exported.path).requests) == 5
    assert set(exported.seconds) == {"build", "trace", "write", "prove", "publish"}
    assert is_complete(exported.path)


@pytest.mark.parametrize(
    ("builder", "kind", "problem"),
    [
        (zoo.failing, BuilderError, "raised ValueError: no data in /data/train.csv"),
        (zoo.unbuilt, ServableError, "Stack was not built"),
        (
            zoo.missing_output,
            ServableError,
            "its function returns the outputs 'scaled', but it declares 'label', 'scaled'",
        ),
        (zoo.random, ServableError, "the same request gets another output the second time"),
        (zoo.fixed_output_batch, LintError, "[output-batch] signature 'serving_default', output 'scaled'"),
        (zoo.untracked, LintError, "[untracked-variable] signature 'serving_default' uses the variables hidden"),
        (zoo.python_op, LintError, "[python-op] signature 'serving_default': PyFunc"),
        (
            zoo.python_branch,
            ProofError,
            "signature 'serving_default', output 'scaled': for a batch of 1, the version run as a function "
            "and the live model return different values: largest difference",
        ),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_cannot_be_trusted_is_refused_and_leaves_nothing(
    export_here: Export, tmp_path: Path, builder: Callable[[], Servable], kind: type[ExportError], problem: str
) -> None:
    with pytest.raises(kind) as refused:
        export_here(builder)
    assert problem in str(refused.value)
    assert not (tmp_path / "models" / "model").exists()
