"""Changing what is served while it is served, over gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import text_format

from tests.serving.embedded.running import Asker, together, wait_until
from tests.serving.embedded.saved_models import rows
from tfserving.foundation.messages import ReloadConfigRequest, ReloadConfigResponse

pytestmark = together


class Reload:
    """What the shared server is told; `request` begins as what it was started with."""

    def __init__(self, ask: Asker, configured: Path) -> None:
        self._ask = ask
        self.request = ReloadConfigRequest()
        text_format.Parse((configured / "models.config").read_text(), self.request.config)
        self.models = {model.name: model for model in self.request.config.model_config_list.config}

    def send(self) -> None:
        self._ask.call("ModelService/HandleReloadConfigRequest", self.request, ReloadConfigResponse)


@pytest.fixture
def reload(ask: Asker, configured: Path) -> Iterator[Reload]:
    yield Reload(ask, configured)
    # Others are to find the server as it was.
    Reload(ask, configured).send()


def version(ask: Asker, model: str, label: str | None = None) -> int:
    return int(ask.predict(model, {"x": rows(1)}, label=label)["version"][0])


def test_a_new_model_is_available_when_the_reload_returns_and_unloaded_when_it_is_left_out(
    ask: Asker, reload: Reload, configured: Path
) -> None:
    # Of a model with several versions, a reload waits for any one.
    again = reload.request.config.model_config_list.config.add(name="again", model_platform="tensorflow")
    again.base_path = reload.models["scale"].base_path
    reload.send()
    assert version(ask, "again") == 2
    assert version(ask, "scale") == 2

    Reload(ask, configured).send()
    wait_until("its end", lambda: ask.state("again", 2) == "END")
    code, text = ask.error("again", {"x": rows(1)})
    assert (code, text.split(";")[0]) == ("NOT_FOUND", "Servable not found for request: Latest(again)")


def test_a_label_moves_at_once(ask: Asker, reload: Reload) -> None:
    del reload.models["scale"].version_labels["gone"]
    for wanted in (2, 1, 2):
        reload.models["scale"].version_labels["stable"] = wanted
        reload.send()
        assert version(ask, "scale", "stable") == wanted


def test_a_label_does_not_move_to_what_is_not_available_and_nothing_changes(ask: Asker, reload: Reload) -> None:
    reload.models["scale"].version_labels["stable"] = 7
    reload.request.config.model_config_list.config.remove(reload.models["pair"])
    with pytest.raises(grpc.RpcError) as refused:
        reload.send()
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert version(ask, "scale", "stable") == 1
    assert ask.state("pair", 1) == "AVAILABLE"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("new", "Model new requests unsupported platform onnx"),
        (
            "pair",
            "Illegal to change a model's platform. For model pair platform was tensorflow and new platform requested "
            "is onnx",
        ),
    ],
)
def test_another_platform_is_refused_and_nothing_changes(ask: Asker, reload: Reload, name: str, text: str) -> None:
    models = reload.request.config.model_config_list.config
    changed = reload.models.get(name) or models.add(name=name, base_path=reload.models["scale"].base_path)
    changed.model_platform = "onnx"
    with pytest.raises(grpc.RpcError) as refused:
        reload.send()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == ask.engine.says(text, f"model {name!r} requires model_platform: 'tensorflow'")
    assert ask.state("pair", 1) == "AVAILABLE"
