"""The results of a verification: a row for each output of a signature over a protocol, and the outcome of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Literal, TypeAlias, TypeVar, get_args

from tfserving.clients.busy import Refusals
from tfserving.clients.errors import PROTOCOL_NAMES, DeadlineExceeded, ServingError, Unavailable
from tfserving.clients.unreachable import START
from tfserving.foundation.compare import Difference, Verdict
from tfserving.foundation.devices import Device

# How requests are sent: one after the other, many as one batch, many at the same time.
Way: TypeAlias = Literal["alone", "batch", "concurrent"]
WAYS: tuple[Way, ...] = ("alone", "batch", "concurrent")
AT_A_TIME = 32
WAY_NAMES: Mapping[Way, str] = {"alone": "one by one", "batch": "in a batch", "concurrent": f"{AT_A_TIME} at a time"}
# From the best to the worst; the first three match.
_BADNESS: dict[Verdict, int] = {verdict: place for place, verdict in enumerate(get_args(Verdict))}
_MATCHING = ("equal", "within tolerance", "near tie")

Number = TypeVar("Number", int, float)


@dataclass
class Tally:
    """The largest of the differences added, their number, and the place of the worst one."""

    requests: int = 0
    verdict: Verdict = "equal"
    absolute: float | None = None
    relative: float | None = None
    scaled: float | None = None
    ulp: int | None = None
    reason: str = ""

    def add(self, difference: Difference, where: str) -> None:
        """Add the difference of one request."""
        self.requests += 1
        self.absolute = _larger(self.absolute, difference.absolute)
        self.relative = _larger(self.relative, difference.relative)
        self.scaled = _larger(self.scaled, difference.scaled)
        self.ulp = _larger(self.ulp, difference.ulp)
        if _BADNESS[difference.verdict] > _BADNESS[self.verdict]:
            self.verdict, self.reason = difference.verdict, f"{where}: {difference.reason}"


@dataclass(frozen=True)
class Row:
    """The result of one output of a signature over one protocol: the worst of all ways in which it was requested.

    `requests` is the number of golden requests sent one by one. `ways` holds the result of each way, `left_out` the
    reason why a way was skipped. In a row that failed before outputs were compared, unknown fields are None. `code` is
    the status code of a failed call. `absolute`, `relative`, `scaled` and `ulp` are those of
    `tfserving.foundation.compare.Difference`. `device` is the kind of device whose tolerances were used, `tolerances`
    describes these. `hint` is the probable cause of a difference.
    """

    model: str
    protocol: str
    version: int | None = None
    signature: str | None = None
    output: str | None = None
    requests: int = 0
    verdict: Verdict = "failed"
    absolute: float | None = None
    relative: float | None = None
    scaled: float | None = None
    ulp: int | None = None
    reason: str = ""
    hint: str = ""
    device: Device | None = None
    tolerances: str = ""
    code: str = ""
    ways: Mapping[Way, Tally] = field(default_factory=dict)
    left_out: Mapping[Way, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the outputs match: equal, within the tolerance, or but for a near tie."""
        return self.verdict in _MATCHING

    @property
    def unreachable(self) -> bool:
        """Whether there was no response."""
        return self.code in (Unavailable.code, DeadlineExceeded.code)

    def __str__(self) -> str:
        where = [self.model + (f" version {self.version}" if self.version is not None else "")]
        if self.signature is not None:
            where.append(f"signature {self.signature!r}")
        if self.output is not None:
            where.append(f"output {self.output!r}")
        return f"{', '.join(where)} over {PROTOCOL_NAMES[self.protocol]}: {self.reason or self.verdict}"


def row_of(row: Row, ways: Mapping[Way, Tally], left_out: Mapping[Way, str]) -> Row:
    """Return `row` with the results of its ways."""
    worst = max(ways.values(), key=lambda tally: _BADNESS[tally.verdict])
    every = ways.values()
    return replace(
        row,
        requests=next(iter(every)).requests,
        verdict=worst.verdict,
        absolute=reduce(_larger, (tally.absolute for tally in every)),
        relative=reduce(_larger, (tally.relative for tally in every)),
        scaled=reduce(_larger, (tally.scaled for tally in every)),
        ulp=reduce(_larger, (tally.ulp for tally in every)),
        reason=worst.reason,
        ways=ways,
        left_out=left_out,
    )


@dataclass(frozen=True)
class Report:
    """The rows of a verification. `requests` requests to `models` models were sent over `protocols`.

    `against` is the server whose outputs were expected, "" for the golden outputs. `busy` lists the servers that
    rejected requests because they were busy.
    """

    rows: tuple[Row, ...]
    models: int
    requests: int
    protocols: tuple[str, ...]
    against: str = ""
    busy: tuple[Refusals, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all outputs were compared and match."""
        return bool(self.rows) and all(row.ok for row in self.rows)

    @property
    def unreachable(self) -> bool:
        """Whether the only failures are those of a server that can't be reached."""
        return not self.ok and all(row.ok or row.unreachable for row in self.rows)

    @property
    def tolerances(self) -> tuple[str, ...]:
        """The descriptions of the tolerances, each with the models that it applies to unless there is only one."""
        models: dict[str, dict[str, None]] = {}
        for row in self.rows:
            if row.tolerances:
                models.setdefault(row.tolerances, {})[f"{row.model} over {PROTOCOL_NAMES[row.protocol]}"] = None
        return tuple(f"{', '.join(names)}: {text}" if len(models) > 1 else text for text, names in models.items())

    @property
    def hints(self) -> tuple[str, ...]:
        """The probable causes of differences."""
        return tuple(dict.fromkeys(row.hint for row in self.rows if row.hint))

    def sentence(self) -> str:
        """Return the outcome in one sentence."""
        wrong = [row for row in self.rows if not row.ok]
        if wrong:
            return f"{len(wrong)} of {len(self.rows)} comparisons failed, the first: {wrong[0]}"
        verdicts = {row.verdict for row in self.rows}
        verdict = "equal" if verdicts == {"equal"} else "equal or within tolerance"
        if "near tie" in verdicts:
            verdict = "equal, within tolerance or near ties"
        over = " and ".join(PROTOCOL_NAMES[protocol] for protocol in self.protocols)
        requests = "the golden request" if self.requests == 1 else f"all {self.requests} golden requests"
        to = f" to those of {self.against}" if self.against else ""
        return f"{requests} of {count(self.models, 'model')} {verdict} over {over}{to}"


def reason_of(error: ServingError) -> str:
    """Return why a call failed in one line, with the hint if it is one line."""
    if START in error.hint:
        return error.hint
    hint = "" if "\n" in error.hint else error.hint
    return f"{error.code}: {error.text}" + (f"; {hint}" if hint else "")


def count(number: int, noun: str) -> str:
    """Return for example `1 model`, `2 models`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _larger(first: Number | None, second: Number | None) -> Number | None:
    return second if first is None else first if second is None else max(first, second)
