"""Operations that end the process on a tensor of a wrong rank, and versions whose graph doesn't let one through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.export import aborting
from tfserving.export import ranks, savedmodel
from tfserving.export.graph import read_graph


def test_what_ends_a_process_is_found_by_lint_and_refused_by_what_is_exported(tmp_path: Path) -> None:
    models = aborting.models()
    assert {model.op for model in models} == {*ranks.ABORTING, ranks.FUSED[0][1]}
    runs: dict[str, list[dict[str, Any]]] = {"plain": [], "exported": []}
    for model in models:
        servable = model.servable
        model.save(tmp_path / "plain" / model.op)
        savedmodel.write_savedmodel(servable, savedmodel.trace(servable), tmp_path / "exported" / model.op)
        for way, found in (("plain", [model.op]), ("exported", [])):
            graph = read_graph(tmp_path / way / model.op)
            tensor = graph.signatures["serving_default"].inputs["x"].name
            assert [node.op for node in ranks.trusting(graph, tensor)] == found, (way, model.op)
            feeds = [model.feed(wrong=False), model.feed(wrong=True)]
            folder = str(tmp_path / way / model.op)
            runs[way].append({"folder": folder, "signature": "serving_default", "feeds": feeds})
    *plain, exported = aborting.run_apart(*([run] for run in runs["plain"]), runs["exported"])
    for model, ended in zip(models, plain, strict=True):
        assert ended["said"][0] == "", (model.op, ended)
        assert (ended["ended"] < 0) == model.aborts, (model.op, ended)
    assert exported["ended"] == 0, exported
    for model, fitting, wrong in zip(models, exported["said"][::2], exported["said"][1::2], strict=True):
        assert fitting == "", model.op
        assert wrong.startswith("INVALID_ARGUMENT: Shape of tensor "), (model.op, wrong)
        assert "is not compatible with expected shape [" in wrong, (model.op, wrong)
