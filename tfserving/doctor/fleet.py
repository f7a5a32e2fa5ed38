"""Whether there is a models.yaml, whether it is valid, and which versions its models have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tfserving.doctor.finding import Finding
from tfserving.foundation.command.hints import typed
from tfserving.foundation.extras import how_to_install, missing_for_signatures

if TYPE_CHECKING:
    from tfserving.serving.models_yaml.fleet import Fleet
    from tfserving.serving.models_yaml.server import ServerSettings


def server_settings(file: Path) -> ServerSettings | None:
    """Return `server:` of a models.yaml, its defaults if there is no valid file; None without what reads it."""
    try:
        from tfserving.serving.models_yaml.fleet import FleetError, read_fleet
        from tfserving.serving.models_yaml.server import ServerSettings
    except ModuleNotFoundError:
        return None
    try:
        return read_fleet(file).server
    except FleetError:
        return ServerSettings()


def models_yaml(file: Path, names: tuple[str, ...]) -> Finding:
    """Return what models.yaml has; `names` are the models that matter, all when there are none."""
    data: dict[str, object] = {"file": str(file.absolute())}
    if not file.is_file():
        hint = f"It lists the models. `{typed('init')}` creates a project with one."
        return Finding("models.yaml", "missing", f"{file} does not exist", hint, data)
    try:
        from tfserving.serving.models_yaml.fleet import FleetError, read_fleet
    except ModuleNotFoundError:
        hint = f"The extra 'serving' reads it. Install with {how_to_install('serving')}."
        return Finding("models.yaml", "missing", f"{file}, not read", hint, data)
    try:
        fleet = read_fleet(file)
        models = {name: fleet.versions(name) for name in fleet.select(names)}
    except FleetError as error:
        check = typed("config --check", fleet=file)
        return Finding("models.yaml", "problem", str(error), f"Correct it; `{check}` checks it.", data)
    if wrong := _wrong_signatures(fleet):
        return Finding("models.yaml", "problem", wrong, "Versions can't be signed or verified until then.", data)
    data |= {"models": models, "folder": str(fleet.folder)}
    listed = ", ".join(f"{name} ({_versions(found)})" for name, found in models.items())
    return Finding("models.yaml", "ok", f"{file}: {listed}", data=data)


def _wrong_signatures(fleet: Fleet) -> str | None:
    """Return why signatures can't be made or verified here, as `sign` and `trust` want it; None when they can."""
    from tfserving.foundation.trust import TrustError, check_trust

    if fleet.trusted:
        try:
            check_trust(fleet.trusted)
        except TrustError as error:
            return f"trust: {error}"
    return missing_for_signatures("sign") if fleet.sign else None


def _versions(found: list[int]) -> str:
    if not found:
        return "not exported"
    return f"version {found[-1]}" if len(found) == 1 else f"{len(found)} versions, newest {found[-1]}"
