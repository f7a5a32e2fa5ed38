"""What the machine refuses a command, in a line: a full disk, a folder that can't be written, no memory."""

from __future__ import annotations

import errno
import os

# What a user can mend. Other errors are a fault of the program, and are shown with their traceback.
_MENDABLE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EILSEQ),
    *(errno.EAGAIN, errno.ETXTBSY, errno.ELOOP, errno.ENODEV, errno.ENXIO),
}
_WAYS_OUT = {
    errno.EMFILE: "raise the limit of open files (ulimit -n), or ask less at a time",
    errno.EAGAIN: "raise the limit of processes (ulimit -u), or start fewer",
    errno.EROFS: "TMPDIR, HOME and XDG_STATE_HOME say where else files can be written",
}
_NO_TEMPORARY = "No usable temporary directory found"


def sentence(error: BaseException) -> str | None:
    """What `error` is and what can be done; None for one that is a fault of the program."""
    if isinstance(error, MemoryError):
        return "there is not enough memory for it"
    if isinstance(error, RecursionError):
        return "what was given is nested too deeply"
    if isinstance(error, UnicodeEncodeError):
        return f"the output can't be written in the encoding {error.encoding}; PYTHONIOENCODING=utf-8 is one that can"
    if not isinstance(error, OSError):
        return None
    said = str(error.strerror or error)
    if "set TMPDIR" in said:
        return said
    if _NO_TEMPORARY in said:
        return f"a temporary folder is needed, and none can be written to ({said}): set TMPDIR to one that can"
    if error.errno not in _MENDABLE:
        return None
    where = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
    if not where and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        where = "the output can't be written"
    way_out = _WAYS_OUT.get(error.errno or 0, "")
    return (f"{where}: " if where else "") + said + (f"; {way_out}" if way_out else "")
