"""What a node boots, or why it waits."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

import pytest

from provisiond.nodes.bootwords import render_words
from provisiond.nodes.choose import Site, choose_plan, choose_stranger
from provisiond.nodes.model import Node, Session
from provisiond.nodes.scopes import Scopes, resolve
from provisiond.protocol import OnFailure, PlannedCapsule, PlannedOverlay

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
    assert (chosen.method, chosen.kernel_arguments) == ("auto", ("panic=60",))
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


SESSION = Session(
    boot_id="0" * 32, state="failed", since=0.0, hwaddr=HWADDR, peer="10.87.1.1", last_contact=0.0,
)  # fmt: skip


@pytest.mark.parametrize("method", ["local", "rescue"])
def test_no_capsule_is_needed_for_the_disk_and_for_rescue(method):
    node = replace(NODE, attributes={"method": method})
    chosen = plan(node)
    assert (chosen.action, chosen.method, chosen.capsule) == ("boot", method, None)
    assert chosen.overlay == OVERLAY  # the keys that rescue lets in
    assert method in chosen.reason or "own disk" in chosen.reason


@pytest.mark.parametrize("method", ["local", "rescue"])
def test_they_are_for_nodes_that_may_boot(method):
    node = with_attributes(method=method)
    assert plan(replace(node, approved_by=None)).action == "wait"
    disabled = replace(node, attributes={**node.attributes, "enabled": False})
    assert plan(disabled).reason.startswith("n00001 is disabled")
    assert plan(node, conflict=True).action == "wait"
    assert plan(node, state="ready").action == "none"


def after(failures, **values):
    node = with_attributes(on_failure="local", tries=2, **values)
    return choose_plan(
        node,
        resolve(node.attributes, node.groups, Scopes()),
        state="init",
        conflict=False,
        find=lambda reference: CAPSULE,
        overlay=OVERLAY,
        site=SITE,
        session=replace(SESSION, failures={CAPSULE.digest: failures}),
    )


def test_a_node_goes_to_its_disk_after_so_many_failures():
    chosen = after(1)
    assert (chosen.method, chosen.on_failure) == ("auto", OnFailure(2, "local"))
    chosen = after(2)
    assert (chosen.action, chosen.method) == ("boot", "local")
    assert chosen.reason == (
        "minimal@111111111111 failed 2 times on n00001, which boots its own disk instead; "
        "provisionctl node retry n00001"
    )


def test_what_the_site_wants_after_failures_is_in_the_plan():
    assert plan().on_failure == OnFailure()
    assert plan(with_attributes(tries=3)).on_failure == OnFailure()
    assert plan(with_attributes(on_failure="reboot")).on_failure == OnFailure(5, "reboot")
    assert plan(with_attributes(debug=True)).debug
    assert "vnfs.tmpfs=30%" in plan(with_attributes(tmpfs_size="30%")).kernel_arguments


def words(node=NODE, **values):
    node = replace(node, attributes={**node.attributes, **values}, address="10.87.1.7")
    return render_words(
        node,
        resolve(node.attributes, node.groups, Scopes()),
        network=IPv4Interface("10.87.0.1/16"),
        gateway=IPv4Address("10.87.0.254"),
        name_servers=(IPv4Address("10.87.0.1"), IPv4Address("10.87.0.2")),
    )


def test_a_bootstrap_is_told_what_it_cannot_ask():
    assert words() == b""
    assert words(bootstrap_vlan=100, debug=True) == b"vnfs.vlan=100\nvnfs.debug\n"
    assert words(bootstrap_address="static") == (
        b"vnfs.ip=10.87.1.7/16\nvnfs.router=10.87.0.254\nvnfs.dns=10.87.0.1,10.87.0.2\n"
    )
    assert words(on_failure="reboot", tries=9) == b"vnfs.tries=9\nvnfs.on_failure=reboot\n"
