"""Text of a server, harmless on a terminal."""

from __future__ import annotations

from tfserving.clients.limits import MOST_SHOWN, MOST_TEXT


def printable(text: str, most: int = MOST_SHOWN) -> str:
    r"""`text` in one line, at most `most` characters of it, with escapes in place of what a terminal acts on.

    Control characters (escape sequences, line ends), those that turn the direction of text, other invisible ones and
    lone surrogates become `\x1b`, `\n`, `\u202e`. Letters of every language stay.
    """
    cut = shortened(text, most)
    return cut if cut.isprintable() else "".join(it if it.isprintable() else repr(it)[1:-1] for it in cut)


def shortened(text: str, most: int = MOST_TEXT) -> str:
    """At most `most` characters of `text`, with the number of those that are left out."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most} more characters)"
