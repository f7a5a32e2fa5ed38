"""Errors of the machine as one sentence: a full disk, a folder that can't be written, no memory."""

from __future__ import annotations

import errno
import os

# Errors that a user can fix. Others are a fault of the program, and are shown with their traceback.
_MENDABLE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EILSEQ),
    *(errno.EAGAIN, errno.ETXTBSY, errno.ELOOP, errno.ENODEV, errno.ENXIO),
}
_WAYS_OUT = {
    errno.EMFILE: "raise the limit of open files (ulimit -n), or use fewer at a time",
    errno.EAGAIN: "raise the limit of processes (ulimit -u), or start fewer",
    errno.EROFS: "set TMPDIR, HOME or XDG_STATE_HOME to a folder that can be written",
}
_NO_TEMPORARY = "No usable temporary directory found"


def sentence(error: BaseException) -> str | None:
    """Return what went wrong and what to do; None for a fault of the program."""
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    if isinstance(error, RecursionError):
        return "the input is nested too deeply"
    if isinstance(error, UnicodeEncodeError):
        return f"the output can't be written in the encoding {error.encoding}; set PYTHONIOENCODING=utf-8"
    if not isinstance(error, OSError):
        return None
    text = str(error.strerror or error)
    if "Set TMPDIR" in text:
        return text
    if _NO_TEMPORARY in text:
        return f"no temporary folder can be written ({text}). Set TMPDIR to one that can."
    if error.errno not in _MENDABLE:
        return None
    where = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
    if not where and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        where = "the output can't be written"
    way_out = _WAYS_OUT.get(error.errno or 0, "")
    return (f"{where}: " if where else "") + text + (f"; {way_out}" if way_out else "")
