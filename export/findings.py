"""The findings of lint: a broken rule, what breaks it, and how to fix it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from tfserving.export.errors import LintError
from tfserving.serving.models_yaml.fleet import Rule

# The rules about limits for clients. In a SavedModel that is served as it is, breaking them is only a note. The other
# rules are about a server that crashes and about signatures that always fail.
FOR_CLIENTS: tuple[Rule, ...] = (
    *("bytes-suffix", "fixed-batch", "int-input", "made-up-name", "output-batch", "rest-dtype", "unbatched"),
)


@dataclass(frozen=True)
class Finding:
    """A broken rule, what breaks it, and how to fix it. A `note` only states the cost of a declaration."""

    rule: Rule
    where: str
    problem: str
    remedy: str
    note: bool = False

    def __str__(self) -> str:
        return f"[{self.rule}] {self.where}: {self.problem}. {self.remedy}."


def of_adopted(findings: Iterable[Finding]) -> list[Finding]:
    """Return the `findings` in a SavedModel that is served as it is: limits for clients are only notes."""
    return [replace(finding, note=finding.note or finding.rule in FOR_CLIENTS) for finding in findings]


class Rules:
    """Applies the rules of lint to a model."""

    def __init__(self, allowed: Collection[str], note: Callable[[str], None], *, adopted: bool = False) -> None:
        """Accept broken rules that are `allowed`. `note` is called once with each note."""
        self._allowed = allowed
        self._note = note
        self._adopted = adopted
        self._noted: set[Finding] = set()

    def require(self, findings: Iterable[Finding]) -> None:
        """Raise LintError with those of the `findings` that are not notes."""
        findings = [finding for finding in findings if finding.rule not in self._allowed]
        if self._adopted:
            findings = of_adopted(findings)
        notes = [finding for finding in findings if finding.note and finding not in self._noted]
        self._noted.update(notes)
        for rule in dict.fromkeys(finding.rule for finding in notes):
            first, *more = (finding for finding in notes if finding.rule == rule)
            self._note(f"{first}{f' ({len(more)} more: `export lint` lists them)' if more else ''}")
        require_clean(findings, self._allowed, adopted=self._adopted)


def require_clean(findings: Iterable[Finding], allowed: Collection[str], *, adopted: bool = False) -> None:
    """Raise LintError with the findings of rules that are not `allowed`, except notes."""
    if refused := [finding for finding in findings if not finding.note and finding.rule not in allowed]:
        remedy = " A builder can give a SavedModel other signatures (docs/export.md)." if adopted else ""
        raise LintError(
            "\n  ".join(
                [
                    *map(str, refused),
                    f"docs/lint.md explains the rules. `allow: [RULE]` in models.yaml accepts a broken rule.{remedy}",
                ]
            )
        )
