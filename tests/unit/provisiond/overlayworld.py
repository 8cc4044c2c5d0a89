"""Overlays of a node without a server: attributes in, files out."""

from ipaddress import IPv4Address, IPv4Interface

from provisiond.nodes.attributes import parse_attribute
from provisiond.nodes.scopes import Scopes, resolve
from provisiond.overlays.folders import BUILT_IN, load_overlay
from provisiond.overlays.overlays import FOR_ALL
from provisiond.overlays.render import Memo, render_node
from provisiond.overlays.values import NodeFacts, NodeValues, SiteFacts, make_node_table

SECRET = bytes(range(32))
FACTS = NodeFacts(
    name="n00001",
    node_id="52:54:00:00:00:01",
    hwaddr="52:54:00:00:00:02",
    address=IPv4Interface("10.87.0.100/24"),
    groups=("compute",),
)
PLAIN = SiteFacts(secret=SECRET, server=IPv4Address("10.87.0.1"), gateway=None, name_servers=(),
                  domain="")  # fmt: skip
RICH = SiteFacts(
    secret=SECRET,
    server=IPv4Address("10.87.0.1"),
    gateway=IPv4Address("10.87.0.254"),
    name_servers=(IPv4Address("10.87.0.1"), IPv4Address("10.87.0.2")),
    domain="cluster.example.org",
)
NODES = make_node_table(
    [
        ("n00002", "10.87.0.101", (), {"slurm": "CPUs=4"}),
        ("n00001", "10.87.0.100", (), {}),
        ("n00003", None, (), {}),
    ],
    "",
)
BUILT_INS = {path.name: load_overlay(path, built_in=True) for path in sorted(BUILT_IN.iterdir())}


def values_of(site=PLAIN, facts=FACTS, nodes=NODES, **settings):
    texts = {key.replace("__", "."): text for key, text in settings.items()}
    own = {key: parse_attribute(key, text) for key, text in texts.items()}
    return NodeValues(facts, resolve(own, (), Scopes()), site, lambda: nodes)


def render(overlays, values, *, with_secrets=True, memo=None):
    return render_node(overlays, values, with_secrets=with_secrets, memo=memo or Memo())


def built_in(*names, site=PLAIN, with_secrets=True, **settings):
    """Return the files of built-in overlays, by path, without the record of them."""
    chosen = [BUILT_INS[name] for name in names or FOR_ALL]
    rendered = render(chosen, values_of(site, **settings), with_secrets=with_secrets)
    assert rendered.faults == ()
    return {
        file.path: file for file in rendered.files if file.path != "etc/vnfs/overlay.json"
    }  # fmt: skip


def texts(files):
    return {path: file.link or file.data.decode() for path, file in files.items()}
