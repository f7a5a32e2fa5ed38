"""The project of a command: the models.yaml that it uses, found as git finds its folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import click

from tfserving.foundation.command.errors import WRONG, CommandError
from tfserving.foundation.devices import Device

FLEET_FILE = "models.yaml"
FLEET_VARIABLE = "TFSERVING_FLEET"


class Project(Protocol):
    """The models of a models.yaml, for commands that can't import what reads it."""

    def use(self, file: Path) -> None:
        """Use this models.yaml."""

    def models(self) -> tuple[str, ...]:
        """Return the names of all models. Raises CommandError when models.yaml can't be used."""

    def has(self, name: str) -> bool:
        """Return whether `name` is a model of the fleet; False when there is no models.yaml."""

    def folder(self, model: str) -> Path:
        """Return the folder with the versions of `model`. Raises CommandError."""

    def accepted_folder(self, model: str, version: int | None) -> Path:
        """Return a folder with the versions of `model` that models.yaml trusts: `version`, or those that are served.

        With `trust` these are copies that nobody else can write to. Raises CommandError when there are none.
        """

    def version(self, model: str) -> int:
        """Return the version that clients get: the `stable` one, else the newest. Raises CommandError."""

    def device(self) -> Device | None:
        """Return the kind of device of the fleet's servers, None if models.yaml doesn't determine it.

        Raises CommandError when models.yaml can't be used.
        """


def project() -> Project:
    """Return the project of the command that runs."""
    found: Project = click.get_current_context().find_root().obj
    return found


def find_fleet(start: Path | None = None) -> Path:
    """Return models.yaml in `start` (the working folder) or the nearest folder above; `models.yaml` when there is none.

    Raises CommandError when a file in a folder above belongs to another user: its builders are code.
    """
    start = (start or Path.cwd()).absolute()
    for folder in (start, *start.parents):
        file = folder / FLEET_FILE
        if file.is_file():
            if folder != start:
                _check_owner(file)
            return Path(os.path.relpath(file, start))
    return Path(FLEET_FILE)


def default_fleet() -> Path:
    """Return the models.yaml that a command without --fleet uses."""
    named = os.environ.get(FLEET_VARIABLE)
    return Path(named) if named else find_fleet()


def _check_owner(file: Path) -> None:
    trusted = {0, os.geteuid(), int(os.environ.get("SUDO_UID") or 0)}
    for path in (file, file.parent):
        if (owner := path.stat().st_uid) not in trusted:
            raise CommandError(
                f"{path} belongs to another user (uid {owner}), and models.yaml names code that runs. "
                f"Use --fleet {file} if you trust it.",
                WRONG,
            )
