"""The model server's configuration, made from the fleet with TensorFlow Serving's own messages."""

from __future__ import annotations

from google.protobuf import text_format

from clients.messages import ModelServerConfig
from serving.fleet import Fleet


def model_config(fleet: Fleet, names: tuple[str, ...]) -> str:
    """The text of `--model_config_file` for the models `names`: a ModelServerConfig, base paths absolute."""
    config = ModelServerConfig()
    for name in names:
        config.model_config_list.config.add(
            name=name, base_path=str(fleet.model_folder(name)), model_platform="tensorflow"
        )
    return text_format.MessageToString(config)
