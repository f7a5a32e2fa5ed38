"""Every way an export can fail.

ExportError
├── BuilderError    the builder can't be found, or raised
├── CheckpointError a checkpoint can't be restored, or its values did not reach the model
├── ServableError   what it returned can't be served as it says
│   └── LintError   it could, but breaks rules that are there for its clients
└── ProofError      the version on disk does not answer as the live model does
"""

from __future__ import annotations


class ExportError(Exception):
    """Nothing was exported; the text says what was wrong, where, and what would be right."""


class BuilderError(ExportError):
    """The builder can't be found, or raised."""


class CheckpointError(ExportError):
    """A checkpoint can't be restored as it should, or was not; the text lists every variable that is the reason."""


class ServableError(ExportError):
    """What the builder returned can't be served as it says."""


class LintError(ServableError):
    """What is to be served breaks rules of docs/lint.md."""


class ProofError(ExportError):
    """The version on disk does not answer as the live model does."""
