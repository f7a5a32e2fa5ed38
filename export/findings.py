"""What lint finds: a rule that is broken, by what, and how to mend it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from tfserving.export.errors import LintError
from tfserving.serving.models_yaml.fleet import Rule


@dataclass(frozen=True)
class Finding:
    """A rule that is broken: by what, and how to mend it. A `note` only names the price of what was declared."""

    rule: Rule
    where: str
    problem: str
    remedy: str
    note: bool = False

    def __str__(self) -> str:
        return f"[{self.rule}] {self.where}: {self.problem}; {self.remedy}"


def require_clean(findings: Iterable[Finding], allowed: Collection[str]) -> None:
    """Raises LintError with the findings of rules that are not `allowed`, notes left out."""
    if refused := [finding for finding in findings if not finding.note and finding.rule not in allowed]:
        raise LintError(
            "\n  ".join(
                [
                    *map(str, refused),
                    "docs/lint.md says more of each rule; `allow: [...]` in models.yaml lets a model break one",
                ]
            )
        )
