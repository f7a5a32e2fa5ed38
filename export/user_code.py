"""Shortens an error of the user's own code to its message and the line of the user's file that it came from.

TensorFlow and Keras put tracebacks into messages, and frames of their own and of generated files into tracebacks.
"""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

import tfserving
from tfserving.export.errors import ExportError
from tfserving.export.keras_errors import why

MOST_LINES = 8
MOST_CHARACTERS = 1000
# The toolkit's own folders. The samples count as the user's code.
_PACKAGE = Path(tfserving.__file__).parent
_TOOLKIT = tuple(path.resolve() for path in (_PACKAGE, *(_PACKAGE / room for room in ("export", "serving", "clients"))))
_SAMPLES = Path(__file__).resolve().parent / "models"
_LIBRARY = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))
_INSTALLED = {"site-packages", "dist-packages"}
# The prefix of files that AutoGraph generates.
# https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/python/autograph/pyct/loader.py
_GENERATED = "__autograph_generated_file"
_STYLE = re.compile(r"\x1b\[[\d;]*m")
# A frame in a message, of AutoGraph ("in user code:") or of a Python function that a graph calls.
_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+), in .*$')
# https://github.com/keras-team/keras/blob/v3.12.0/keras/src/utils/traceback_utils.py
_KERAS_CALL = re.compile(r"^Exception encountered when calling (?P<what>.+?)\.?$")
_KERAS_ARGUMENTS = re.compile(r"^Arguments received by ")
# Operations add their place in the graph, which is not their place in the code.
_NODE = re.compile(r"\{\{function_node \S+?\}\}\s*|\s*\[Op:\w+\](?: name:\s*)?$")


def raised(error: BaseException, function: Callable[..., Any] | None = None, module: str = "") -> str:
    """Return the error, and below it the last line of the user's code: `ValueError: …`, `at FILE:LINE: …`.

    If there is no such line, the second line is where `function`, the user's code that was called, is defined. `module`
    is the user's module, which may be an installed one.
    """
    own = _Own(module.partition(".")[0])
    text = _message(error, own)
    kind = type(error).__name__
    what, frames = _parted(text)
    if what.startswith((f"{kind}: ", f"{type(error).__qualname__}: ")):
        what = what.partition(": ")[2]
    # The toolkit's own errors contain the reason.
    reason, hint = ("", "") if isinstance(error, ExportError) else why(what)
    what = reason if hint else what
    first = f"{kind}: {what}" if what else kind
    where = _where(error, frames, own) or (_defined(function, own) if function is not None else "")
    lines = first.splitlines() if isinstance(error, ExportError) else _shortened(first)
    more = [*filter(None, [hint]), *getattr(error, "__notes__", ())]
    return "\n  ".join([*lines, *more, *([where] if where else [])])


class _Own:
    """Distinguishes the user's files from those of libraries, Python and this toolkit."""

    def __init__(self, package: str) -> None:
        """Count the files of `package` as the user's, also when it is installed."""
        self._package = package

    def __call__(self, name: str | None) -> bool:
        """Return whether a frame's file is the user's."""
        if not name or name.startswith("<") or Path(name).name.startswith(_GENERATED):
            return False
        path = Path(name).resolve()
        if path.is_relative_to(_SAMPLES):
            return True
        if any(path.is_relative_to(folder) for folder in _TOOLKIT):
            return False
        if installed := [number for number, part in enumerate(path.parts) if part in _INSTALLED]:
            return bool(self._package) and path.parts[installed[-1] + 1] in (self._package, f"{self._package}.py")
        return not any(path.is_relative_to(folder) for folder in _LIBRARY)


def _message(error: BaseException, own: _Own) -> str:
    """Return the text of an error, without colours."""
    if isinstance(error, SyntaxError):
        text = error.msg if own(error.filename) else str(error)
    elif isinstance(error, KeyError) and len(error.args) == 1 and "\n" in str(error.args[0]):
        # A text of Keras in a KeyError, which shows its repr.
        text = str(error.args[0])
    else:
        try:
            text = str(error)
        except Exception as another:
            text = f"its message can't be shown, __str__ raised {type(another).__name__}"
    parts = getattr(error, "exceptions", None)
    if isinstance(parts, tuple) and all(isinstance(part, BaseException) for part in parts):
        text = "; ".join([text, *(f"{type(part).__name__}: {_parted(_message(part, own))[0]}" for part in parts)])
    return _STYLE.sub("", text)


def _parted(text: str) -> tuple[str, list[tuple[str, int]]]:
    """Return a message without its frames, and the frames as file and line."""
    lines = text.strip().splitlines()
    frames = [(found["file"], int(found["line"])) for line in lines if (found := _FRAME.match(line))]
    if lines and lines[0].startswith("in user code"):
        # The error follows after its frames, each of which has a line of code.
        last = max((number for number, line in enumerate(lines) if _FRAME.match(line)), default=0)
        rest = lines[last + 1 :]
        blank = next((number for number, line in enumerate(rest) if not line.strip()), 0)
        lines = [line.removeprefix("    ") for line in rest[blank + 1 :]]
    elif (start := next((n for n, line in enumerate(lines) if line.startswith("Traceback (most recent")), 0)) > 0:
        lines = lines[:start]
    lines = [_NODE.sub("", line) for line in _of_keras(lines) if not line.lstrip().startswith("[[{{node")]
    return "\n".join(lines).strip(), frames


def _of_keras(lines: list[str]) -> list[str]:
    """Return the lines without the text that Keras adds to the error of a layer."""
    head = next((line for line in lines if line.strip()), "")
    kind, _, rest = head.partition(": ")
    call = _KERAS_CALL.match(rest if kind.isidentifier() and rest else head)
    if not call:
        return lines
    end = next((number for number, line in enumerate(lines) if _KERAS_ARGUMENTS.match(line)), len(lines))
    inner = [line for line in lines[lines.index(head) + 1 : end] if line.strip()]
    intro = next((number for number, line in enumerate(inner) if line.rstrip().endswith("Error encountered:")), -1)
    inner = inner[intro + 1 :] or [head]
    return [*inner[:-1], f"{inner[-1]} (in {call['what']})"]


def _shortened(text: str) -> Iterator[str]:
    """Yield the first lines of a text, shortened."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    for line in lines[:MOST_LINES]:
        yield line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]} …"
    if len(lines) > MOST_LINES:
        yield f"… {len(lines) - MOST_LINES} more lines"


def _where(error: BaseException, frames: list[tuple[str, int]], own: _Own) -> str:
    """Return `at FILE:LINE: CODE` of the last line of the user's code before the error; '' when there is none."""
    if isinstance(error, SyntaxError) and own(error.filename):
        return _at(str(error.filename), error.lineno or 1)
    for file, line in reversed(frames):
        if own(file):
            return _at(file, line)
    # In a chain of errors, the first one has the deepest line.
    for one in _chain(error):
        for frame in reversed(traceback.extract_tb(one.__traceback__)):
            if own(frame.filename):
                return _at(frame.filename, frame.lineno or 1)
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    yield error
    for part in getattr(error, "exceptions", ()):
        yield from _chain(part)
    if error.__cause__ is not None:
        yield from _chain(error.__cause__)


def _at(file: str, line: int) -> str:
    import linecache

    code = linecache.getline(file, line).strip()
    return f"at {file}:{line}" + (f": {code}" if code else "")


def _defined(function: Callable[..., Any], own: _Own) -> str:
    """Return where a function of the user's is defined; '' when it isn't the user's."""
    while inner := function.func if isinstance(function, partial) else getattr(function, "python_function", None):
        function = inner
    code = getattr(function, "__code__", None)
    if isinstance(code, CodeType) and own(code.co_filename):
        return _at(code.co_filename, code.co_firstlineno)
    return ""
