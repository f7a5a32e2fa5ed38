"""A server and models that get at its files: none does, and each is refused by the operation's name."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from tests.serving.embedded import graphs, hostile
from tests.serving.embedded.graphs import Bait
from tests.serving.embedded.running import Asker, Start, embedded_only, together

pytestmark = [embedded_only, together]


def test_a_server_refuses_such_models_by_name(start: Start, version: Path, bait: Bait, tmp_path: Path) -> None:
    refused = {**hostile.IN_SIGNATURES, **hostile.ON_LOADING}
    ways = [hostile.READ[3], hostile.WRITE[1], *list(hostile.ON_LOADING)[-3:], hostile.own_table()]
    entries = []
    for way in ways:
        folder = tmp_path / "models" / way.__name__
        shutil.copytree(version, folder / "1")
        graphs.write(folder / "1", graphs.model(way, str(bait.path)))
        entries.append(f"config {{ name: '{way.__name__}' base_path: '{folder}' model_platform: 'tensorflow' }}")
    (tmp_path / "config").write_text(f"model_config_list {{ {' '.join(entries)} }}")
    server = start(f"--model_config_file={tmp_path / 'config'}", "--max_num_load_retries=0")
    assert server.wait() == 1
    for way in ways[:-1]:
        lines = [line for line in server.lines if f"model '{way.__name__}' version 1 failed to load" in line]
        assert refused[way] in lines[0]
        assert "--allow_file_and_python_ops all" in lines[0]
    assert server.says("model 'way' version 1 is available")
    assert not bait.release()


def test_a_server_is_told_which_operations_models_may_have(start: Start, version: Path, tmp_path: Path) -> None:
    graphs.write(version, graphs.model(hostile.READ[0], str(tmp_path / "secret")))
    server = start(f"--model_base_path={version.parent}", "--allowed_operations=ReadFile,WriteFile").ready()
    asker = Asker(server)
    assert asker.predict("default", {"x": np.array(b"x", object)})["y"].tolist() == b"secret\n"
    asker.close()
