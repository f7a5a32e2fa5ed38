"""Where a version is from: the form of `provenance` in a manifest.

It is what the exporting process saw. Nobody but the signature of the version vouches for it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from tfserving.export.training_data import DIGEST, LONGEST_NAME

# No line break and nothing that moves a terminal's cursor: they are printed.
_PRINTED = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
Text = Annotated[str, Field(pattern=_PRINTED, max_length=4096)]
Name = Annotated[str, Field(pattern=_PRINTED, min_length=1, max_length=LONGEST_NAME)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceCommit(_Strict):
    """The commit in Git of the builder's code, or of the folder of models.yaml for a SavedModel."""

    repository: Annotated[
        str | None,
        Field(
            description="The address of the remote `origin`, without user, password and query. None without a remote "
            "that others can reach.",
            pattern=r"^(https?|ssh|git)://[!-~]+$",
            max_length=500,
        ),
    ]
    commit: Annotated[str, Field(pattern="^([0-9a-f]{40}|[0-9a-f]{64})$")]
    dirty: Annotated[
        bool,
        Field(
            description="Whether a file of the repository differed from the commit, or an imported module below it "
            "was not in it."
        ),
    ]
    path: Annotated[
        Text, Field(description="The folder of models.yaml or of the code in the repository; `.` is its top.")
    ]


class BuilderFile(_Strict):
    """The file of the builder's module."""

    path: Annotated[
        Text, Field(description="In the repository of `source`, else as its module is named: train/spam.py.")
    ]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Platform(_Strict):
    """The machine that exported it, without names of hosts and users."""

    system: Name
    machine: Name
    libc: Name | None
    cpu: Name | None


class Provenance(_Strict):
    """What the exporting process recorded of the origin of a version."""

    source: Annotated[
        SourceCommit | None, Field(description="None outside a Git repository, or without the program `git`.")
    ]
    builder_file: Annotated[BuilderFile | None, Field(description="None for a SavedModel.")]
    training_data: Annotated[
        dict[Name, Annotated[str, Field(pattern=f"^{DIGEST}$")]],
        Field(
            description="What the builder reported of its data, by name: `sha256:…`, `dirHash:…` for a folder, "
            "`git:…` for a commit, or another algorithm and its digits."
        ),
    ]
    toolkit: Annotated[Name, Field(description="The version of this toolkit.")]
    python: Name
    packages: Annotated[
        dict[Name, Name],
        Field(description="The versions of the installed packages that the exporting process had imported, by name."),
    ]
    platform: Platform
    started: Annotated[datetime, Field(description="When the export began, in UTC.")]
