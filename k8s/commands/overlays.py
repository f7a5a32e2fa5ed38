"""The option `--overlay`, and the fleet that a command of `tfserving k8s` reads with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tfserving.k8s.kubectl import Kubectl
    from tfserving.serving.models_yaml.fleet import Fleet

overlay_option = click.option(
    "--overlay",
    "overlays",
    multiple=True,
    type=click.Choice(sorted(folder.name for folder in (Path(__file__).parents[1] / "components").iterdir())),
    metavar="NAME",
    help="A component of k8s/components, in place of those in models.yaml. Repeat it for several.",
)


def read_fleet_with(
    path: Path, names: tuple[str, ...], context: str | None, overlays: tuple[str, ...] = ()
) -> tuple[Fleet, tuple[str, ...], Kubectl]:
    """Return the fleet, the models that the command is for, and the kubectl of their namespace. Raises FleetError."""
    from pydantic import ValidationError

    from tfserving.k8s.kubectl import Kubectl
    from tfserving.serving.models_yaml.fleet import FleetError, read_fleet
    from tfserving.serving.models_yaml.kubernetes import Kubernetes

    read = read_fleet(path)
    if overlays:
        try:
            given = read.kubernetes.model_dump()
            # Settings of other components are allowed only with these components.
            unused = {key for key in ("gateway", "object_store") if key.replace("_", "-") not in overlays}
            kept = {key: value for key, value in given.items() if key not in unused}
            settings = Kubernetes.model_validate({**kept, "components": overlays})
        except ValidationError as error:
            reasons = "; ".join(one["msg"].removeprefix("Value error, ") for one in error.errors())
            raise FleetError(f"--overlay {', '.join(overlays)}: {reasons}") from None
        read = read.model_copy(update={"kubernetes": settings})
    return read, read.select(names), Kubectl(read.kubernetes.namespace, context, read.kubernetes.kubectl_seconds)
