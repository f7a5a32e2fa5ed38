"""The project of a command, read when it is needed."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfserving.foundation.command.errors import FAILED, WRONG, CommandError
from tfserving.foundation.command.hints import typed
from tfserving.foundation.command.project import default_fleet
from tfserving.foundation.extras import how_to_install

if TYPE_CHECKING:
    from tfserving.foundation.devices import Device
    from tfserving.serving.models_yaml.fleet import Fleet


class FoundProject:
    """A `foundation.command.project.Project`: the models.yaml that the command names, else the one found from here."""

    def __init__(self) -> None:
        self._file: Path | None = None

    def use(self, file: Path) -> None:
        """Use this models.yaml."""
        self._file = file

    def models(self) -> tuple[str, ...]:
        """Return the names of all models. Raises CommandError when models.yaml can't be used."""
        return tuple(self._fleet.models)

    def has(self, name: str) -> bool:
        """Return whether `name` is a model of the fleet; False when there is no models.yaml."""
        file = self._file or default_fleet()
        return file.is_file() and name in self._fleet.models

    def folder(self, model: str) -> Path:
        """Return the folder with the versions of `model`. Raises CommandError."""
        from tfserving.serving.models_yaml.fleet import FleetError

        try:
            self._fleet.select((model,))
        except FleetError as error:
            raise CommandError(str(error), WRONG) from None
        return self._fleet.model_folder(model)

    def accepted_folder(self, model: str, version: int | None) -> Path:
        """See Project. A version that isn't accepted is left out with a warning, unless it is the only one."""
        folder = self.folder(model)
        if self._fleet.trust is None:
            return folder
        from tfserving.foundation.command.progress import Progress
        from tfserving.serving.admitted import admitted
        from tfserving.serving.engines import EngineError
        from tfserving.serving.served import loaded

        refused: list[str] = []
        numbers = [version] if version else sorted({*loaded(self._fleet, model)})
        with Progress() as progress:
            for number in numbers:
                try:
                    folder = admitted(self._fleet, {model: [number]}, progress.update).model_folder(model)
                except EngineError as error:
                    refused.append(str(error))
        if len(refused) == len(numbers) > 0:
            raise CommandError("\n".join(refused), FAILED)
        for reason in refused:
            click.echo(f"Left out: {reason}", err=True)
        return folder

    def version(self, model: str) -> int:
        """Return the version that clients get: the `stable` one, else the newest. Raises CommandError."""
        folder = self.folder(model)
        found = self._fleet.kept(model) or self._fleet.versions(model)
        if not found:
            build = typed(f"export build {model}", fleet=self._file)
            raise CommandError(f"model {model!r} has no version in {folder}. Export one with `{build}`.", WRONG)
        return found[-1]

    def device(self) -> Device | None:
        """Return the kind of device of the fleet's servers, None if models.yaml doesn't determine it.

        Raises CommandError when models.yaml can't be used.
        """
        from tfserving.serving.devices import fleet_device

        return fleet_device(self._fleet, None)

    @cached_property
    def _fleet(self) -> Fleet:
        try:
            from tfserving.serving.models_yaml.fleet import FleetError, read_fleet
        except ModuleNotFoundError as error:
            raise CommandError(
                f"reading models.yaml needs the Python module {error.name!r}. Install the extra 'clients': "
                f"{how_to_install('clients')}, or give a folder or an input.",
                WRONG,
            ) from None
        try:
            return read_fleet(self._file or default_fleet())
        except FleetError as error:
            raise CommandError(str(error), WRONG) from None
