"""The last words of a server: of the last lines that it printed, those that name the reason.

read ──► without what is repeated ──► without times and places ──► the last 15, and an abort's reason among them
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable

# How many of the last lines are looked at, and how many of them are shown.
READ_LINES = 500
LINES = 15
_LEVELS = {"I": "", "W": "warning: ", "E": "error: ", "F": "fatal: "}
# How lines begin: those of TensorFlow and those of Abseil with a level and a place in the source, those of the embedded
# server with a level that is a word already.
_RECORD = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: (?P<tensorflow>[IWEF]) \S+:\d+\] *"
    r"|(?P<abseil>[IWEF])\d{4} \d\d:\d\d:[\d.]+ +\d+ \S+:\d+\] *"
    r"|\d{4}-\d\d-\d\dT\S+ (?:info: )?"
)
# What TensorFlow Serving prints each time that it reads models.config, changed or not.
_REPEATED = re.compile(
    r"Adding/updating models\.|\(Re-\)adding model: .*|Finished adding/updating models"
    r"|WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR"
)
# The reason of an abort, which a long stack trace may follow.
_REASON = re.compile(r"Check failed|pthread_create\(\) failed|^fatal: ")


def is_information(line: str) -> bool:
    """Whether a line that TensorFlow Serving printed is of the level INFO."""
    record = _RECORD.match(line)
    return record is not None and "I" in (record["tensorflow"], record["abseil"])


def last_words(lines: Iterable[str]) -> str:
    """The last of the `lines` that a server printed, indented; an abort's reason is among them.

    What TensorFlow Serving repeats is left out, and so are times and places in the source. Of records with the same
    text the last one stays.
    """
    found: list[str] = []
    records: set[str] = set()
    for line in reversed(deque(lines, READ_LINES)):
        text = line.rstrip()
        if record := _RECORD.match(text):
            text = _LEVELS.get(record["tensorflow"] or record["abseil"] or "", "") + text[record.end() :]
            if text in records:
                continue
            records.add(text)
        if text and not _REPEATED.fullmatch(text):
            found.append(text)
    shown = found[:LINES]
    reason = next((text for text in found if _REASON.search(text)), None)
    if reason is not None and reason not in shown:
        shown[-1] = reason
    return "\n".join(f"    {text}" for text in reversed(shown or ["it printed nothing"]))
