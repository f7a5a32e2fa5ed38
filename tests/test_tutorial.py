"""docs/tutorial.md, followed in an empty folder: a project of one's own, from `init` to a rollout and back."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.servers import serve
from tests.test_readme import FENCE, OWN, QUICK, ROOT, SECTIONS, SHORTER, in_order, run, shape

TUTORIAL = FENCE.findall((ROOT / "docs/tutorial.md").read_text())


def own_commands(blocks: list[tuple[str, str]]) -> list[str]:
    return [line for language, block in blocks if language == "sh" for line in block.splitlines()]


def test_the_tutorial_has_every_command_of_the_readmes_own_project() -> None:
    assert set(own_commands(SECTIONS[OWN])) <= set(own_commands(TUTORIAL))


def test_a_project_of_ones_own_works_by_the_tutorial_alone(tmp_path: Path) -> None:
    """From `init` to a rollout and back, in an empty folder, beside folders whose names the toolkit has, too."""
    init, cd, foreground = own_commands(SECTIONS[OWN])[1:4]
    project = tmp_path / cd.removeprefix("cd ")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}
    run(init, tmp_path, env)
    for name in ("serving", "export", "clients", "k8s"):
        (project / name).mkdir()
        (project / name / "__init__.py").write_text("raise ImportError('this is a module of the project')\n")
    models = project / "models.yaml"
    models.write_text(models.read_text() + QUICK)
    command = [*foreground.split(), "--engine", "embedded", "--port", "{port}", "--rest-port", "{rest_port}"]
    printed: list[str] = []
    with serve(command, project, env) as server:
        env["TFSERVING_SERVER"] = f"{server.url('grpc')},{server.url('rest')}"
        # What comes before is done; pytest is run in a project by test_install.py.
        for line in own_commands(TUTORIAL)[own_commands(TUTORIAL).index(foreground) + 1 : -2]:
            for whole, part in SHORTER.items():
                line = line.replace(whole, part)  # noqa: PLW2901
            printed.append(run(line, project, env))
        (code,) = (block for language, block in TUTORIAL if language == "python")
        printed.append(run(f"python -c '{code.replace('8500', str(server.grpc_port))}'", project, env))
    for page in (SECTIONS[OWN], TUTORIAL):
        for language, block in page:
            if language == "text":
                assert in_order(shape(block), shape(server.output + "".join(printed))), block
    assert "[b'setosa']" in printed[-1]
