"""What a node boots, or why it waits."""

from dataclasses import replace

import pytest

from provisiond.nodes.choose import Site, choose_plan, choose_stranger
from provisiond.nodes.model import Node
from provisiond.nodes.scopes import Scopes, resolve
from provisiond.protocol import PlannedCapsule, PlannedOverlay

HWADDR = "52:54:00:00:00:01"
NODE = Node(
    node_id=HWADDR,
    name="n00001",
    hwaddrs=(HWADDR,),
    approved_by="administrator",
    attributes={"vnfs": "minimal"},
)
CAPSULE = PlannedCapsule(name="minimal", digest="sha256:" + "1" * 64, signatures=())
OVERLAY = PlannedOverlay(digest="sha256:" + "2" * 64, size_bytes=10240)
SITE = Site(blobs=("http://10.87.0.1:8988/blobs",), checkin_seconds=60)


def plan(node=NODE, *, state="init", conflict=False, there=True):
    return choose_plan(
        node,
        resolve(node.attributes, node.groups, Scopes()),
        state=state,
        conflict=conflict,
        find=lambda reference: CAPSULE if there and reference.name == "minimal" else None,
        overlay=OVERLAY,
        site=SITE,
    )


def with_attributes(**values):
    return replace(NODE, attributes={**NODE.attributes, **values})


def test_an_approved_node_boots_what_it_is_assigned():
    chosen = plan()
    assert (chosen.action, chosen.capsule, chosen.overlay) == ("boot", CAPSULE, OVERLAY)
    assert (chosen.method, chosen.kernel_arguments) == ("kexec", ("panic=60",))
    assert (chosen.blobs, chosen.checkin_seconds) == (SITE.blobs, 60)


@pytest.mark.parametrize(
    ("node", "words", "reason"),
    [
        (NODE, {"conflict": True}, "conflict: another boot of n00001 is alive; this one waits "
         "until that one halts or falls silent"),
        (with_attributes(enabled=False), {},
         "n00001 is disabled; provisionctl node set enabled true n00001"),
        (replace(NODE, approved_by=None), {},
         "n00001 waits for approval; provisionctl node approve n00001"),
        (replace(NODE, attributes={}), {}, "no VNFS capsule is assigned to n00001; "
         "provisionctl node set vnfs NAME n00001"),
        (replace(NODE, attributes={}, approved_by=None), {}, "no VNFS capsule is assigned to "
         "n00001, and it is not approved; provisionctl node set vnfs NAME n00001"),
        (NODE, {"there": False}, "the capsule minimal, assigned to n00001, is not in the store; "
         "provisionctl vnfs import FILE"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("state", ["init", "failed", "fetching", "booting"])
def test_reasons_say_what_to_type(node, words, reason, state):
    chosen = plan(node, state=state, **words)
    assert (chosen.action, chosen.reason) == ("wait", reason)
    assert chosen.capsule is None
    assert chosen.overlay is None


@pytest.mark.parametrize("state", ["ready", "halted"])
@pytest.mark.parametrize("node", [NODE, with_attributes(enabled=False)])
def test_a_node_that_runs_is_left_as_it_is(state, node):
    assert plan(node, state=state).action == "none"


def test_attributes_go_into_the_plan():
    chosen = plan(with_attributes(method="pivot", kernel_arguments=["panic=5", "a"], debug=True))
    assert chosen.method == "pivot"
    assert chosen.kernel_arguments == ("panic=5", "a", "vnfs.debug")


def test_a_stranger_waits():
    chosen = choose_stranger(HWADDR, reason="closed", site=SITE)
    assert (chosen.node_id, chosen.action, chosen.reason) == (HWADDR, "wait", "closed")
