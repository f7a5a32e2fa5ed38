from __future__ import annotations

import tempfile

import pytest

from tfserving.foundation.temporary import temporary_folder


def test_without_a_temporary_folder_the_error_says_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    said = r"no temporary folder for the proofs can be written .*Set TMPDIR to one that can"
    with pytest.raises(OSError, match=said), temporary_folder("the proofs"):
        pass
