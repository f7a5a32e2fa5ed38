"""The model server's configuration, made from the fleet with TensorFlow Serving's own messages."""

from __future__ import annotations

from google.protobuf import text_format

from clients.messages import ModelServerConfig
from serving.fleet import Fleet


def model_config(fleet: Fleet, names: tuple[str, ...]) -> str:
    """The text of `--model_config_file` for the models `names`: a ModelServerConfig, base paths absolute."""
    config = ModelServerConfig()
    for name in names:
        model = config.model_config_list.config.add(
            name=name, base_path=str(fleet.model_folder(name)), model_platform="tensorflow"
        )
        for label, version in fleet.models[name].labels.items():
            model.version_labels[label] = version
        if labelled := set(fleet.models[name].labels.values()):
            # A label needs its version loaded, beside the newest.
            model.model_version_policy.specific.versions.extend(sorted(labelled | set(fleet.versions(name)[-1:])))
    return text_format.MessageToString(config)
