"""Containers and images of a fleet with `trust`, while somebody else can write to the folder of its versions."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.docker.conftest import SCALED, Fleet
from tests.serving.signed_versions import make_key
from tests.signed import sign_with
from tfserving.clients import connect

WEIGHTS = "variables/variables.data-00000-of-00001"


def sums(fleet: Fleet) -> list[float]:
    with connect(fleet.grpc) as client:
        client.wait_until_available("scaled", timeout=60)
        return [float(one) for one in client.predict("scaled", [[1, 2, 3]]).outputs["sums"]]


def test_attack_a_container_and_an_image_have_what_was_signed_whatever_the_folder_has(
    fleet: Fleet, tmp_path: Path
) -> None:
    key = make_key(tmp_path, "ours")
    first = fleet.folder / "models/scaled/1"
    fleet.say(f"{SCALED}trust: {{keys: [{key.with_suffix('.pub')}]}}\n")
    assert f"{first} is not signed" in fleet.up(code=2).stderr
    assert fleet.containers == []
    sign_with(first, key)
    fleet.up()
    (mount,) = (one for one in fleet.container.attrs["Mounts"] if one["Destination"] == "/models")
    assert Path(mount["Source"]).is_relative_to(fleet.state)
    # The weights are those of another version now, also when the container's server starts again.
    right = (first / WEIGHTS).read_bytes()
    shutil.copy(fleet.folder / "later/2" / WEIGHTS, first / WEIGHTS)
    assert sums(fleet) == [6.0]
    fleet.container.restart()
    assert sums(fleet) == [6.0]
    for words, code in ((("serve", "restart"), 2), (("image", "--tag", "baked:wrong"), 1)):
        done = fleet.toolkit(*words, code=code)
        assert f"{first} was changed since its export:\n  {WEIGHTS}: got SHA-256" in done.stderr
    assert not fleet.docker.images.list("baked")
    assert sums(fleet) == [6.0]
    # An unsigned version comes, and is signed later.
    (first / WEIGHTS).write_bytes(right)
    fleet.version(2)
    assert "scaled/2 is not signed" in fleet.toolkit("serve", "reload", code=2).stderr
    sign_with(fleet.folder / "models/scaled/2", key)
    fleet.toolkit("serve", "reload")
    assert sums(fleet) == [12.0]
    assert "ours.pub" in fleet.toolkit("serve", "status").stdout
    tag = fleet.toolkit("image").stdout.partition("  ")[0]
    labels = fleet.docker.images.get(tag).labels
    assert "ours.pub" in labels["tensorflow-serving-toolkit.signer.scaled/2"]
    fleet.docker.images.remove(tag)
    fleet.toolkit("serve", "down")
    assert not [*fleet.state.rglob("saved_model.pb")]
