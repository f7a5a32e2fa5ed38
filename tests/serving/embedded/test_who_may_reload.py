"""HandleReloadConfigRequest: it can be turned off, kept to folders, and keeps nobody from predicting."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from tests.serving.embedded.running import Asker, Process, Start, embedded_only, together
from tests.serving.embedded.saved_models import rows
from tfserving.foundation.messages import ReloadConfigRequest, ReloadConfigResponse

pytestmark = [embedded_only, together]


def reload(server: Process, seconds: float = 30, **models: Path) -> tuple[str, str]:
    """The code and the text of the status that a reload to `models`, with their base paths, gets."""
    request = ReloadConfigRequest()
    request.config.model_config_list.SetInParent()
    for name, path in models.items():
        request.config.model_config_list.config.add(name=name, base_path=str(path), model_platform="tensorflow")
    ask = Asker(server)
    try:
        ask.call("ModelService/HandleReloadConfigRequest", request, ReloadConfigResponse, seconds)
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""
    finally:
        ask.close()
    return "OK", ""


def works(server: Process) -> None:
    ask = Asker(server)
    assert ask.predict("scale", {"x": rows(1)})["version"].tolist() == [2]
    ask.close()


def test_it_can_be_turned_off(start: Start, models: Path) -> None:
    server = start("--model_name=scale", f"--model_base_path={models}/scale", "--enable_reload_config=false").ready()
    code, text = reload(server)
    assert (code, text) == (
        "PERMISSION_DENIED",
        "HandleReloadConfigRequest is turned off; --enable_reload_config=true turns it on",
    )
    works(server)


def test_it_can_be_kept_to_folders(start: Start, models: Path, tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    for folder in (outside, inside):
        folder.mkdir()
        (folder / "scale").symlink_to(models / "scale")
    (inside / "leads-out").symlink_to(outside)
    allowed = f"--reload_base_paths={models},{inside}"
    server = start("--model_name=scale", f"--model_base_path={models}/scale", allowed).ready()
    assert reload(server, scale=models / "scale", pair=models / "pair") == ("OK", "")
    for path in (outside / "nothing", inside / "leads-out" / "x", inside / ".." / "outside", Path("/etc"), Path("/")):
        code, text = reload(server, scale=models / "scale", other=path)
        assert (code, text.split(";")[0]) == (
            "PERMISSION_DENIED",
            f"base path {path} of model other is not allowed",
        )
    # A link is judged by where it leads.
    assert reload(server, scale=outside / "scale") == ("OK", "")
    works(server)


def test_reloads_that_fail_or_wait_keep_nobody_from_predicting(start: Start, models: Path) -> None:
    server = start(
        "--model_name=scale",
        f"--model_base_path={models}/scale",
        "--grpc_max_threads=2",
        # A model that doesn't load is tried again for minutes, and a reload waits for it.
        "--load_retry_interval_micros=60000000",
    ).ready()
    with ThreadPoolExecutor(20) as pool:
        waiting = [
            pool.submit(reload, server, 3, scale=models / "scale", **{f"broken{number}": models / "broken"})
            for number in range(20)
        ]
        while not all(future.done() for future in waiting):
            works(server)
        assert {future.result()[0] for future in waiting} <= {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
    works(server)


def test_a_reload_ends_with_its_own_deadline_and_says_what_holds_now(start: Start, models: Path) -> None:
    server = start("--model_name=scale", f"--model_base_path={models}/scale").ready()
    code, _ = reload(server, 1, scale=models / "scale", broken=models / "broken")
    assert code == "DEADLINE_EXCEEDED"
    # The change before is not waited for by the next one.
    assert reload(server, 20, scale=models / "scale") == ("OK", "")
    works(server)
