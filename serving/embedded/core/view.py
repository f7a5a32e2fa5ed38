"""A view: all versions with their states, and the labels, at one moment."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from tfserving.serving.embedded.errors import Code, RequestError


class State(enum.IntEnum):
    """A version's state; the numbers are those of `tensorflow.serving.ModelVersionStatus.State`."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class Status:
    """The status of one version; `error` is why a version in END never became available."""

    version: int
    state: State
    error: RequestError | None


Labels = Mapping[str, Mapping[str, int]]


class View:
    """The state of all models at one moment; it never changes."""

    def __init__(self, statuses: Mapping[str, Mapping[int, Status]], labels: Labels) -> None:
        """`statuses` has every version that the server has or had, `labels` the version of each label, by model."""
        self._statuses = statuses
        self._labels = labels
        self._available = {
            model: sorted(number for number, status in known.items() if status.state is State.AVAILABLE)
            for model, known in statuses.items()
        }
        self._latest = {model: numbers[-1] for model, numbers in self._available.items() if numbers}

    def find(self, model: str, version: int | None = None, label: str | None = None) -> int:
        """Returns the number of an available version of `model`: that with the label, `version`, or the highest.

        Raises RequestError: NOT_FOUND when it is not available, INVALID_ARGUMENT for an unknown label.
        """
        if label is not None:
            version = self._labelled(model, label)
        if version is None:
            latest = self._latest.get(model)
            if latest is not None:
                return latest
        elif version in self._available.get(model, ()):
            return version
        raise self._not_found(model, version)

    def statuses(self, model: str, version: int | None = None) -> list[Status]:
        """Returns the status of every version that `model` has or had, highest first, or of `version` alone.

        Raises RequestError NOT_FOUND when there is none.
        """
        known = self._statuses.get(model, {})
        found = [known[n] for n in sorted(known, reverse=True) if version is None or n == version]
        if found:
            return found
        text = f"Could not find {'any versions' if version is None else f'version {version}'} of model {model}"
        raise RequestError(Code.NOT_FOUND, text, self.describe_available(model))

    def available(self) -> dict[str, list[int]]:
        """Returns the available versions of every model, lowest first."""
        return dict(self._available)

    def has_model(self, model: str) -> bool:
        """Returns whether the server has, or had, a model of that name."""
        return model in self._statuses

    def describe_available(self, model: str) -> str:
        """Returns the models, or the versions of `model`, that are available, for an error."""
        if model not in self._statuses:
            names = ", ".join(map(repr, sorted(self._statuses)))
            return f"no model is called {model!r}; this server has {names}"
        numbers = self._available[model]
        return f"model {model!r} has {f'versions {numbers} available' if numbers else 'no version available'}"

    def _labelled(self, model: str, label: str) -> int:
        known = self._labels.get(model, {})
        if label in known:
            return known[label]
        names = ", ".join(repr(name) for name in sorted(known)) or "no labels"
        raise RequestError(
            Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}", f"model {model!r} has {names}"
        )

    def _not_found(self, model: str, version: int | None) -> RequestError:
        wanted = f"Latest({model})" if version is None else f"Specific({model}, {version})"
        return RequestError(Code.NOT_FOUND, f"Servable not found for request: {wanted}", self.describe_available(model))
