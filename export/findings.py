"""What lint finds: a rule that is broken, by what, and how to mend it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from tfserving.export.errors import LintError
from tfserving.serving.models_yaml.fleet import Rule

# What clients have to live with in a SavedModel that is served as it is. The other rules are about what nobody can live
# with: a server that ends, or a signature that always fails.
FOR_CLIENTS: tuple[Rule, ...] = (
    *("bytes-suffix", "fixed-batch", "int-input", "made-up-name", "output-batch", "rest-dtype", "unbatched"),
)


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


def of_adopted(findings: Iterable[Finding]) -> list[Finding]:
    """The `findings` in a SavedModel that is served as it is: what its clients can live with is only a note."""
    return [replace(finding, note=finding.note or finding.rule in FOR_CLIENTS) for finding in findings]


class Rules:
    """The rules of lint, as a model is held to them."""

    def __init__(self, allowed: Collection[str], say: Callable[[str], None], *, adopted: bool = False) -> None:
        """Those that are `allowed` may be broken. `say` is told of notes, of each once."""
        self._allowed = allowed
        self._say = say
        self._adopted = adopted
        self._told: set[Finding] = set()

    def require(self, findings: Iterable[Finding]) -> None:
        """Raises LintError with those of the `findings` that are no notes."""
        findings = [finding for finding in findings if finding.rule not in self._allowed]
        if self._adopted:
            findings = of_adopted(findings)
        notes = [finding for finding in findings if finding.note and finding not in self._told]
        self._told.update(notes)
        for rule in dict.fromkeys(finding.rule for finding in notes):
            first, *more = (finding for finding in notes if finding.rule == rule)
            self._say(f"{first}{f' (and {len(more)} more; lint lists them)' if more else ''}")
        require_clean(findings, self._allowed, adopted=self._adopted)


def require_clean(findings: Iterable[Finding], allowed: Collection[str], *, adopted: bool = False) -> None:
    """Raises LintError with the findings of rules that are not `allowed`, notes left out."""
    if refused := [finding for finding in findings if not finding.note and finding.rule not in allowed]:
        mend = "; a builder can give a SavedModel other signatures (docs/export.md)" if adopted else ""
        raise LintError(
            "\n  ".join(
                [
                    *map(str, refused),
                    f"docs/lint.md says more of each rule; `allow: [...]` in models.yaml lets a model break one{mend}",
                ]
            )
        )
