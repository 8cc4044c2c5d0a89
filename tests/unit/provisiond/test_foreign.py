"""Nodes of other systems: CSV tables, ISC's dhcpd.conf, Warewulf's nodes.conf."""

import pytest

from provisiond.foreign.formats import detect_format, parse_foreign
from vnfsbuild.errors import InputError

CSV = """\
# exported from the inventory
Name;MAC;IP;Groups;tag.rack;debug

node01.cluster;52-54-00-00-00-01;10.87.0.20;compute gpu;r 1;yes
LOGIN_1;52:54:00:00:00:02;;;"quoted; text";
;52:54:00:00:00:03
"""
DHCPD = """\
# the cluster
option domain-name "x"; default-lease-time 600;
subnet 10.87.0.0 netmask 255.255.255.0 {
  range 10.87.0.100 10.87.0.199;   # not { a block
  host node01 { hardware ethernet 52:54:00:00:00:01; fixed-address 10.87.0.20; }
}
group compute {
  next-server 10.87.0.1;
  group gpu { host odd-name {
    hardware
      ethernet 52:54:00:00:00:0A;
    option host-name "node02.cluster"; fixed-address 10.87.0.21, 10.99.0.1, other.example.org;
    if exists agent.circuit-id { filename "x"; }
  } }
}
include "/etc/dhcp/more.conf";
host printer { fixed-address 10.87.0.99; }
host off { hardware ethernet 52:54:00:00:00:0b; deny booting; }
"""
NODES_CONF = """\
nodeprofiles:
  default:
    comment: for all
    image name: registry.example.org/hpc/rocky-9:9.4
    runtime overlay: [hosts]
    kernel:
      version: 5.14
      args: [quiet, crashkernel=no]
    network devices:
      default: {device: eno1, netmask: 255.255.255.0, gateway: 10.87.0.254, onboot: "true"}
      ib:
        device: ib0
        netmask: 255.255.0.0
        mtu: "4092"
  gpu:
    profiles: [default]
    kernel args: nosmt
    tags: {accel: a100}
    ipmi: {username: admin}
  old: {}
nodes:
  n1.cluster:
    profiles: [old, gpu, ~old]
    asset key: "1234"
    ipmi: {ipaddr: 10.99.0.1}
    network devices:
      default: {hwaddr: 52:54:00:00:00:01, ipaddr: 10.87.0.20}
      ib: {hwaddr: 52:54:00:00:00:02, ipaddr: 10.1.0.7}
  n2:
    comment: UNDEF
    primary network: boot
    network devices:
      bond0: {type: Bond, device: bond0, ipaddr: 10.2.0.1, netmask: 255.255.255.0}
      en1: {device: en1, hwaddr: 52:54:00:00:00:11, tags: {master: bond0}}
      vlan42: {device: vlan42, tags: {vlan_id: 42, parent_device: en1, DNS1: 10.0.0.1}}
      boot: {device: en0, hwaddr: 52:54:00:00:00:10, mtu: 1400}
  n3:
"""


def nodes(found):
    return {
        node.name: (node.line, node.hwaddrs, dict(node.attributes), node.groups)
        for node in found.nodes
    }


def test_a_table():
    found = parse_foreign(CSV, where="x.csv", file_format=None)
    assert nodes(found) == {
        "node01": (4, ("52:54:00:00:00:01",),
                   {"address": "10.87.0.20", "tag.rack": "r 1", "debug": True}, ("compute", "gpu")),
        "login-1": (5, ("52:54:00:00:00:02",), {"tag.rack": "quoted; text"}, ()),
        None: (6, ("52:54:00:00:00:03",), {}, ()),
    }  # fmt: skip
    assert found.groups == {"compute": {}, "gpu": {}}


def test_host_blocks_of_a_dhcpd_conf():
    found = parse_foreign(DHCPD, where="d", file_format=None)
    assert nodes(found) == {
        "node01": (5, ("52:54:00:00:00:01",), {"address": "10.87.0.20"}, ()),
        "node02": (9, ("52:54:00:00:00:0a",), {"address": "10.87.0.21"}, ("gpu", "compute")),
        "off": (18, ("52:54:00:00:00:0b",), {"enabled": False}, ()),
    }
    assert found.notes == (
        "d:12: fixed-address other.example.org: not an IPv4 address, left out",
        "d:12: fixed-address 10.99.0.1: a second address, left out",
        "d:16: include /etc/dhcp/more.conf: not followed; import that file too",
        "d:17: host printer: has no hardware address, left out",
    )


def test_nodes_and_profiles_of_warewulf():
    found = parse_foreign(NODES_CONF, where="w", file_format=None)
    assert nodes(found) == {
        "n1": (22, ("52:54:00:00:00:01",), {
            "bmc_address": "10.99.0.1", "address": "10.87.0.20", "boot_interface": "eno1",
            "interface.eno1.onboot": True, "interface.ib0.address": "10.1.0.7/16",
            "interface.ib0.hwaddr": "52:54:00:00:00:02", "interface.ib0.mtu": 4092,
        # The last profile is the strongest there, the first group here.
        }, ("gpu", "default")),
        "n2": (29, ("52:54:00:00:00:10",), {
            "boot_interface": "en0", "interface.en0.mtu": 1400,
            "interface.bond0.address": "10.2.0.1/24", "interface.bond0.bond_mode": "active-backup",
            "interface.en1.hwaddr": "52:54:00:00:00:11", "interface.en1.bond": "bond0",
            "interface.vlan42.vlan": 42, "interface.vlan42.vlan_parent": "en1",
        }, ()),
    }  # fmt: skip
    assert found.groups == {
        "default": {"description": "for all", "vnfs": "rocky-9:9.4",
                    "kernel_arguments": ("+", "quiet", "crashkernel=no")},
        "gpu": {"kernel_arguments": ("nosmt",), "tag.accel": "a100"},
        "old": {},
    }  # fmt: skip
    told = "\n".join(found.notes)
    for note in (
        "w:5: runtime overlay: left out: overlays are others here",
        "w:7: kernel version: left out: the capsule brings its kernel",
        "w:19: ipmi username: left out", "w:24: asset key: left out: node keys take its place",
        "w:35: network vlan42: tag DNS1: left out",
        "w:37: n3: no network device has a hwaddr, left out",
    ):  # fmt: skip
        assert note in told
    assert len(found.notes) == 6


@pytest.mark.parametrize(
    ("text", "file_format"),
    [(CSV, "csv"), (DHCPD, "dhcpd"), (NODES_CONF, "nodes.conf"), ("", "csv"),
     ("nodes: {}\n", "nodes.conf"), ("WW_INTERNAL: 45\nnodeprofiles:\n", "nodes.conf"),
     ("HOST x{", "dhcpd"), ("hostname,mac\n", "csv")],
)  # fmt: skip
def test_the_format_is_found_out(text, file_format):
    assert detect_format(text) == file_format


@pytest.mark.parametrize(
    ("file_format", "text", "told"),
    [
        ("csv", "", ["x:1: found the columns none, expected one that is called hwaddr or mac"]),
        ("csv", "name,mac\n", ["x: found no node in it"]),
        ("csv", "nam,vnsf,mac,MAC\n", ["x:1: column 'nam': not known; did you mean 'name'?",
                                       "x:1: column 'vnsf': not known; did you mean 'vnfs'?",
                                       "x:1: column hwaddr: stands there twice"]),
        ("csv", "name,mac,ip,debug\na,52:54:00:00:00:01,10,maybe\n#\nB C,x,,\n"
                "a,52:54:00:00:00:01\nd,,1\ne,52:54:00:00:00:02,,,,\n", [
            "x:2: attribute address: found '10'", "x:2: attribute debug: found 'maybe'",
            "x:4: found 'x', expected a hardware address", "x:4: node name: found 'b c'",
            "x:5: a stands in line 2 too", "x:5: 52:54:00:00:00:01 stands in line 2 too",
            "x:6: found no hardware address", "x:7: found 6 cells, expected 4 at most"]),
        ("csv", "mac,groups\n52:54:00:00:00:01,a:b\n", ["x:2: group name: found 'a:b'"]),
        ("dhcpd", "host a {\nhardware ethernet x;\n}\nhost B_ {\nhardware ethernet "
                  "52:54:00:00:00:01;}", ["x:2: found 'x', expected a hardware address",
                                          "x:4: node name: found 'b-'"]),
        ("dhcpd", "group {\n host a {\n", ["x:1: group: found no '}' that ends it",
                                           "x:2: host a: found no '}' that ends it"]),
        ("dhcpd", "}\n", ["x:1: found '}', and no block is open"]),
        ("dhcpd", 'a "b\n', ["x:1: found a text that does not end"]),
        ("dhcpd", "option x y;", ["x: found no node in it"]),
        ("nodes.conf", "nodes: [", ["x:1: not YAML: "]),
        ("nodes.conf", "- a", ["x:1: found no mapping, expected nodeprofiles and nodes"]),
        ("nodes.conf", "nodes: 7\nnodeprofiles: {a: 7}", [
            "x:1: nodes: expected a mapping", "x:2: nodeprofiles: a: expected a mapping"]),
        ("nodes.conf", "nodes:\n  a:\n    profiles: [gone]\n    network devices:\n"
                       "      default: {hwaddr: x, ipaddr: y}\n  b:\n    profiles: no\n"
                       "    network devices:\n      default: {hwaddr: 52:54:00:00:00:01}\n"
                       "      ib: {ipaddr: 10.0.0.1}\n      eth: {ipaddr: z, netmask: 255}\n", [
            "x:2: a: profile gone: not in nodeprofiles", "x:5: found 'x', expected a hardware",
            "x:5: ipaddr: found 'y'", "x:7: profiles: expected a list",
            "x:10: network ib: found ipaddr without netmask",
            "x:11: network eth: found 'z' and netmask '255'"]),
        ("nodes.conf", "nodes: &a\n  x: *a\n", ["x:1: not YAML: "]),
    ],
)  # fmt: skip
def test_all_faults_are_told_at_once_with_their_lines(file_format, text, told):
    with pytest.raises(InputError) as caught:
        parse_foreign(text, where="x", file_format=file_format)
    for line in told:
        assert line in str(caught.value)
    assert len(str(caught.value).splitlines()) == len(told)


def do_import(world, text, *, dry_run=False, **words):
    return world.administration.transfer.import_nodes(
        text, where="x", file_format=words.get("file_format"), dry_run=dry_run
    )


def test_foreign_nodes_are_added_and_those_that_are_here_are_completed(in_world):
    async def story(world):
        machine = world.machine(3)
        await machine.says()
        await world.administration.settings.add_group("own", ["n00001"])
        await world.administration.nodes.set_attribute("method", "pivot", ["n00001"])
        text = "mac,name,groups,debug\n52:54:00:00:00:03,login,service,1\n52:54:00:00:00:09,,,\n"
        dry = await do_import(world, text, dry_run=True)
        assert list(world.parts.registry.names) == ["n00001"]
        done = await do_import(world, text)
        assert (done["changes"], done["applied"]) == (dry["changes"], True)
        login = world.parts.registry.named("login")
        assert (login.attributes, login.groups, login.gets_secrets) == (
            {"method": "pivot", "debug": True}, ("service", "own"), True,
        )  # fmt: skip
        # The name that was given up is not given to another one at once.
        assert world.parts.registry.named("n00002").node_id == "52:54:00:00:00:09"
        assert (await do_import(world, text.replace(",,,", ",n00002,,")))["changes"] == []
        assert (world.state.dnsmasq.hosts / "52-54-00-00-00-03").read_text().endswith(",login\n")

    in_world(story)


def test_images_that_are_no_capsules_here_are_kept_as_tags(in_world):
    async def story(world):
        done = await do_import(world, NODES_CONF)
        assert world.parts.registry.scopes.groups["default"]["tag.image"] == "rocky-9:9.4"
        told = "provisionctl node set vnfs CAPSULE tag.image=rocky-9:9.4"
        assert (
            f"x: group default: there is no capsule rocky-9:9.4; kept as tag.image. Later: {told}"
        ) in done["notes"]
        await world.import_capsule("rocky-9")
        nodes = world.administration.nodes
        await nodes.set_attribute("vnfs", "rocky-9", ["tag.image=rocky-9:9.4"])
        assert world.parts.registry.named("n1").attributes["vnfs"] == "rocky-9"
        await do_import(world, NODES_CONF.replace(":9.4", ""))
        assert world.parts.registry.scopes.groups["default"]["vnfs"] == "rocky-9"

    in_world(story)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mac,name\n52:54:00:00:00:07,new\n52:54:00:00:00:08,n00001\n",
         "x:3: n00001 is 52:54:00:00:00:01 here; provisionctl node replace n00001"),
        ("mac,name,ip\n52:54:00:00:00:07,a,10.99.0.7\n52:54:00:00:00:08,b,10.87.0.1\n",
         "x:2: a: address: found 10.99.0.7, expected one of 10.87.0.0/24 for nodes\n"
         "x:3: b: address: found 10.87.0.1"),
        ("mac,name,ip\n52:54:00:00:00:07,a,10.87.0.7\n52:54:00:00:00:08,b,10.87.0.7\n",
         "x:3: b: address: 10.87.0.7 is the address of a"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_with_its_line_and_nothing_is_added(in_world, text, told):
    async def story(world):
        await world.administration.nodes.add_node("52:54:00:00:00:01", name=None, attributes={})
        before = dict(world.parts.registry.nodes)
        with pytest.raises(InputError) as caught:
            await do_import(world, text)
        assert told in str(caught.value)
        assert world.parts.registry.nodes == before

    in_world(story)
