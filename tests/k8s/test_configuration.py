"""What pods serve: what the servers of a laptop do, with a label `stable` on every model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving.fleets import fleet
from tfserving.k8s.configuration import checked_at_startup, cluster_models_config, labelled
from tfserving.serving.config import in_container, models_config
from tfserving.serving.models_yaml.fleet import Fleet, FleetError
from tfserving.serving.served import configured


def of(folder: Path, settings: str) -> Fleet:
    return fleet(folder, f"models: {{digits: {{builder: 'm:build', {settings}}}}}\n")


@pytest.mark.parametrize(
    ("settings", "served"),
    [
        ("", {"digits": ((3,), {"stable": 3})}),
        ("versions: [1, 2]", {"digits": ((1, 2), {"stable": 2})}),
        ("labels: {stable: 1}", {"digits": ((1,), {"stable": 1})}),
        # This machine may not have what pods have.
        ("labels: {stable: 9}", {"digits": ((9,), {"stable": 9})}),
        (
            "labels: {stable: 1, canary: 3}",
            {"digits": ((1,), {"stable": 1}), "digits-canary": ((3,), {"canary": 3})},
        ),
        ("labels: {canary: 2}", {"digits": ((3,), {"stable": 3}), "digits-canary": ((2,), {"canary": 2})}),
    ],
)
def test_pods_serve_what_a_server_of_this_machine_serves_with_stable(
    tmp_path: Path, settings: str, served: dict[str, tuple[tuple[int, ...], dict[str, int]]]
) -> None:
    read = of(tmp_path, settings)
    config = cluster_models_config(read, ("digits",))
    assert {one.name: (one.versions, dict(one.labels)) for one in configured(config)} == served
    assert not any(one.newest for one in configured(config))
    assert config == models_config(labelled(read, ("digits",)), ("digits",), in_container())


def test_a_pod_starts_by_a_model_of_which_it_loads_several_versions(tmp_path: Path) -> None:
    """When ports open, one version of each model is loaded. A canary doesn't count."""
    other = "labels: {stable: 1, canary: 3}}, other: {builder: 'm:build', labels: {stable: 2, previous: 1}"
    read = of(tmp_path, other)
    assert checked_at_startup(read, ("digits", "other")) == "other"
    assert checked_at_startup(read, ("digits",)) == "digits"


def test_a_model_may_not_have_the_name_of_another_s_canary(tmp_path: Path) -> None:
    """Every model of a cluster has a label `stable`, so each may get a canary."""
    read = fleet(tmp_path, "models: {digits: {builder: 'm:build'}, digits-canary: {builder: 'm:build'}}\n")
    with pytest.raises(FleetError, match="'digits-canary' has the name of the canary of 'digits'"):
        cluster_models_config(read, ("digits",))
