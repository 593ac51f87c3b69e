"""What a Node's state means, and what is changed of it, for Nodes of every kind."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from gpugate.admission.kubernetes_nodes import admission, parse, removal, standing
from hypothesis import given, settings
from hypothesis import strategies as st

POOL = ("nvidia.com/gpu",)
KEYS = ["gpugate/unvalidated", "nvidia.com/gpu", "maintenance", "node.kubernetes.io/not-ready"]
TAINTS = st.lists(
    st.builds(
        lambda key, value, effect: {"key": key, "effect": effect} | ({"value": value} if value else {}),
        st.sampled_from(KEYS),
        st.sampled_from(["", "new", "removed", "ada"]),
        st.sampled_from(["NoSchedule", "PreferNoSchedule", "NoExecute"]),
    ),
    max_size=4,
    unique_by=lambda each: (each["key"], each["effect"]),
)
STATES = st.builds(
    lambda taints, cordoned, owners, notes, upgrade: {
        "metadata": {"name": "gpu0", "uid": "u", "resourceVersion": "1", "labels": upgrade, "annotations": notes,
                     "managedFields": [{"manager": owner, "fieldsV1": {"f:spec": {"f:unschedulable": {}}}}
                                       for owner in owners]},
        "spec": {"taints": taints, "unschedulable": cordoned},
        "status": {},
    },
    TAINTS,
    st.booleans(),
    st.lists(st.sampled_from(["gpugate", "kubectl-cordon"]), max_size=2),
    st.dictionaries(st.sampled_from(["gpugate/since", "gpugate/cordoned"]),
                    st.sampled_from(["", "2026-03-01T02:00:00Z", "noon"])),
    st.dictionaries(st.just("nvidia.com/gpu-driver-upgrade-state"),
                    st.sampled_from(["", "upgrade-done", "upgrade-required", "drain-required"])),
)  # fmt: skip


@settings(deadline=None)
@given(STATES)
def test_any_state(state: dict[str, Any]) -> None:
    """Whatever a Node is like, nobody is in service whom somebody keeps out, and both changes leave all that is not
    gpugate's as it is, and reach what they are for wherever gpugate may make them."""
    node = parse(state)
    before = standing(node, POOL)
    others = [each for each in state["spec"]["taints"] if each["key"] != KEYS[0]]
    assert not (before.inside and (before.owner or before.removed or state["spec"]["unschedulable"]))
    assert not (before.inside and any(each["key"] in (KEYS[0], "maintenance") and each["effect"] != "PreferNoSchedule"
                                      for each in state["spec"]["taints"]))  # fmt: skip
    foreign = state["spec"]["unschedulable"] and "kubectl-cordon" in str(state["metadata"]["managedFields"])
    assert not foreign or before.owner
    now = datetime(2026, 3, 1, tzinfo=UTC)
    for wanted, patch in ((True, admission(node, "run-1", now)),
                          (False, removal(node, "run-1", ["a.b"], now, cordon=False))):  # fmt: skip
        assert [each for each in patch["spec"]["taints"] if each["key"] != KEYS[0]] == others
        assert patch["metadata"]["resourceVersion"] == "1"
        assert not (foreign and "unschedulable" in patch["spec"])
        notes = {key: value for key, value in patch["metadata"]["annotations"].items() if value is not None}
        made = {
            "metadata": state["metadata"] | {"annotations": notes},
            "spec": state["spec"] | patch["spec"],
            "status": {},
        }
        after = standing(parse(made), POOL)
        if not before.owner:
            assert after.inside is wanted
            assert after.removed is not wanted
