"""Text of a server, made safe for a terminal."""

from __future__ import annotations

from tfserving.clients.limits import MOST_SHOWN, MOST_TEXT


def printable(text: str, most: int = MOST_SHOWN) -> str:
    r"""Return at most `most` characters of `text` in one line, with control characters escaped.

    Escape sequences, line ends, characters that change the direction of text, other invisible ones and lone surrogates
    become `\x1b`, `\n`, `\u202e`. Letters of every language stay.
    """
    cut = shortened(text, most)
    return cut if cut.isprintable() else "".join(it if it.isprintable() else repr(it)[1:-1] for it in cut)


def shortened(text: str, most: int = MOST_TEXT) -> str:
    """Return at most `most` characters of `text`, followed by the number of characters left out."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most} more characters)"
