"""One export: what is refused leaves nothing, what is proved is published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clients.golden import read_golden
from export.errors import BuilderError, ExportError, ProofError, ServableError
from export.exporter import Exported
from export.servable import Servable
from tests.export import zoo
from tests.export.conftest import is_complete

Export = Callable[[Callable[[], Servable]], Exported]


def test_a_keras_model_becomes_a_version_that_answers_as_it_does(export_here: Export) -> None:
    exported = export_here(zoo.trained)
    assert (exported.version, exported.path.name) == (1, "1")
    assert exported.proof.identical
    assert exported.proof.requests == len(read_golden(exported.path).requests) == 4
    assert set(exported.seconds) == {"build", "ask", "write", "prove", "publish"}
    assert is_complete(exported.path)


@pytest.mark.parametrize(
    ("builder", "kind", "problem"),
    [
        (zoo.failing, BuilderError, "raised ValueError: no data in /data/train.csv"),
        (zoo.unbuilt, ServableError, "Stack was not built"),
        (zoo.missing_output, ServableError, "answers the outputs 'scaled', declared are 'label', 'scaled'"),
        (zoo.fixed_output_batch, ServableError, "fixes the batch"),
        (zoo.untracked, ServableError, "does not track"),
        (
            zoo.python_branch,
            ProofError,
            "signature 'serving_default', output 'scaled': what was written, run as a function, answers a batch of 1 "
            "otherwise than the live model: largest difference",
        ),
        (zoo.python_op, ProofError, "signature 'serving_default', golden request 0, as a function: "),
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
