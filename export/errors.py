"""The errors of an export.

ExportError
├── BuilderError    the builder wasn't found, or it raised an error
├── CheckpointError a checkpoint can't be restored, or its values did not reach the model
├── ServableError   the model can't be served as it is declared
│   └── LintError   it breaks a rule of docs/lint.md
└── ProofError      the version on disk returns other outputs than the live model
"""

from __future__ import annotations


class ExportError(Exception):
    """Nothing was exported. The text contains what is wrong, where, and what to do."""


class BuilderError(ExportError):
    """The builder wasn't found, or it raised an error."""


class CheckpointError(ExportError):
    """A checkpoint can't be restored, or its values did not reach the model. The text lists the variables."""


class ServableError(ExportError):
    """The model can't be served as it is declared."""


class LintError(ServableError):
    """The model breaks rules of docs/lint.md."""


class ProofError(ExportError):
    """The version on disk returns other outputs than the live model."""
