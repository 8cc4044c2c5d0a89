"""Which nodes are meant."""

import pytest

from provisiond.nodes.selection import Known, select_nodes
from vnfsbuild.errors import InputError

NAMES = ("n00001", "n00002", "n00010", "login")
VALUES = {
    ("n00001", "state"): ("ready",), ("n00002", "state"): ("failed",),
    ("n00010", "state"): ("ready",), ("login", "state"): ("new",),
    ("n00001", "vnfs"): ("minimal",), ("n00002", "vnfs"): ("compute:3", "compute"),
    ("n00001", "enabled"): ("true",), ("n00002", "enabled"): ("false",),
    ("n00010", "enabled"): ("true",), ("login", "enabled"): ("true",),
    ("n00010", "tag.rack"): ("r1",), ("n00001", "condition"): ("late", "untrusted"),
    ("n00001", "dns"): ("10.0.0.1", "10.0.0.2"),
}  # fmt: skip
KNOWN = Known(
    names=NAMES,
    groups={"compute": ("n00001", "n00002"), "rack-1": ("n00002", "n00010"), "none": ()},
    values=lambda name, key: (name,) if key == "name" else VALUES.get((name, key), ()),
    facts={
        "state": ("ready", "failed", "new"), "condition": ("late", "dead", "untrusted"), "name": (),
    },
)  # fmt: skip


@pytest.mark.parametrize(
    ("expressions", "found", "missing"),
    [
        (["n00001"], ["n00001"], []),
        (["n0000[1-3]"], ["n00001", "n00002"], ["n00003"]),
        (["n000[01-10]"], ["n00001", "n00002", "n00010"], [f"n0000{n}" for n in range(3, 10)]),
        (["*"], sorted(NAMES), []),
        (["n0000?", "login"], ["login", "n00001", "n00002"], []),
        (["login,n00010"], ["login", "n00010"], []),
        (["n00001", "n00001"], ["n00001"], []),
        # groups, and ClusterShell's operators
        (["@compute"], ["n00001", "n00002"], []),
        (["@compute", "login"], ["login", "n00001", "n00002"], []),
        (["@compute&@rack-1"], ["n00002"], []),
        (["@compute!n00001"], ["n00002"], []),
        (["@compute^@rack-1"], ["n00001", "n00010"], []),
        (["@*"], sorted(NAMES), []),
        (["n*!@compute"], ["n00010"], []),
        (["n0000[1-9]!n00002"], ["n00001"], [f"n0000{n}" for n in range(3, 10)]),
        # filters
        (["state=ready"], ["n00001", "n00010"], []),
        (["state!=ready"], ["login", "n00002"], []),
        (["state=ready", "@compute"], ["n00001"], []),
        (["state=ready", "tag.rack=r*"], ["n00010"], []),
        (["tag.rack="], ["login", "n00001", "n00002"], []),
        (["tag.rack!="], ["n00010"], []),
        (["vnfs=compute"], ["n00002"], []),
        (["vnfs=compute:3"], ["n00002"], []),
        (["enabled=no"], ["n00002"], []),
        (["enabled=YES", "name=n*"], ["n00001", "n00010"], []),
        (["condition=late"], ["n00001"], []),
        (["condition="], ["login", "n00002", "n00010"], []),
        (["dns=10.0.0.2"], ["n00001"], []),
    ],
)
def test_words_add_up_and_filters_narrow(expressions, found, missing):
    selection = select_nodes(expressions, KNOWN)
    assert list(selection.found) == found
    assert list(selection.missing) == missing


@pytest.mark.parametrize(
    ("expressions", "told"),
    [
        (["logn"], "nodes: found no node logn; did you mean 'login'?"),
        # One that is named and unknown is an error, whatever else is named.
        (["n00001", "logn"], "nodes: found no node logn; did you mean 'login'?"),
        (["x[1-9]"], "nodes: found no node x1, x2, x3, …"),
        (["n00001", "x[1-9]"], "nodes: found no node x1, x2, x3, …"),
        (["z*"], "nodes: found no node z*"),
        (["n[1-"], "nodes 'n[1-'"),
        (["@comput"], "group comput: not known; did you mean 'compute'?"),
        (["@none"], "nodes: found no node in '@none'"),
        (["@compute&login"], "nodes: found no node in '@compute&login'"),
        (["@compute&"], "nodes '@compute&'"),
        (["state=redy"], "state=redy: not known; did you mean 'ready'?"),
        (["stat=ready"], "filter stat=…: attribute 'stat': not known"),
        (["interface.eth1.adress=x"], "filter interface.eth1.adress=…: attribute"),
        (["enabled=maybe"], "attribute enabled: found 'maybe', expected true or false"),
        (["state=ready", "login"], "nodes: found no node that is meant by 'state=ready login'"),
        (["", "state=ready"], "nodes: found no node nothing"),
        ([], "nodes: found no node nothing"),
    ],
)
def test_naming_no_node_is_an_error(expressions, told):
    with pytest.raises(InputError) as caught:
        select_nodes(expressions, KNOWN)
    assert str(caught.value).startswith(told)


def test_filters_that_leave_nothing_are_an_answer_where_it_is_asked():
    assert select_nodes(["condition=dead"], KNOWN, may_be_none=True).found == ()
    with pytest.raises(InputError):
        select_nodes(["logn", "state=ready"], KNOWN, may_be_none=True)
