"""docs/export.md, followed as a user follows it: the builder it shows is exported, listed, served and verified."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from clients import connect
from tests.servers import serve

GUIDE = (Path(__file__).resolve().parents[1] / "docs/export.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE, re.M | re.S)


def test_the_guide_leads_from_a_builder_to_a_verified_server(clone: Path) -> None:
    (builder,) = (block for language, block in BLOCKS if language == "python")
    (yaml,) = (block for language, block in BLOCKS if language == "yaml")
    commands = [line for language, block in BLOCKS if language == "sh" for line in block.splitlines()]
    (clone / "mymodel.py").write_text(builder)
    # The guide adds the model to models.yaml; here it has a file and a folder of its own.
    (clone / "mine.yaml").write_text(f"folder: mine\n{yaml}")
    for command in commands:
        done = subprocess.run(
            ["sh", "-c", f"{command} --fleet mine.yaml"], cwd=clone, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "mymodel" in done.stdout
    ports = ["--port", "{port}", "--rest-port", "{rest_port}"]
    run = [sys.executable, "-m", "serving", "run", "--fleet", "mine.yaml", *ports]
    with serve(run, clone) as server:
        with connect(f"http://127.0.0.1:{server.rest_port}") as client:
            assert client.predict("mymodel", [[1, 2, 3]]).outputs["doubled"].tolist() == [[2.0, 4.0, 6.0]]
        addresses = ["--grpc", f"127.0.0.1:{server.grpc_port}", "--rest", f"127.0.0.1:{server.rest_port}"]
        verify = [sys.executable, "-m", "clients", "verify", *addresses, "mine/mymodel"]
        assert subprocess.run(verify, cwd=clone, check=False).returncode == 0
