"""Texts that other programs read, in full."""

import io
import subprocess
import tarfile
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from provisiond.dnsmasq_config import (
    DnsmasqPlaces,
    dnsmasq_argv,
    render_dnsmasq_config,
    render_host,
)
from provisiond.ipxe import render_boot_script
from provisiond.render import NodeFacts, OverlayFile, make_machine_id, render_overlay
from provisiond.site import render_site
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import InputError

SECRET = bytes(range(32))
FACTS = NodeFacts(
    name="n00001",
    node_id="52:54:00:00:00:01",
    hwaddr="52:54:00:00:00:02",
    address=IPv4Interface("10.87.0.100/24"),
    gateway=None,
    name_servers=(),
    domain="",
)
RICH = NodeFacts(
    name="n00001",
    node_id="52:54:00:00:00:01",
    hwaddr="52:54:00:00:00:02",
    address=IPv4Interface("10.87.0.100/24"),
    gateway=IPv4Address("10.87.0.254"),
    name_servers=(IPv4Address("10.87.0.1"), IPv4Address("10.87.0.2")),
    domain="cluster.example.org",
)


def test_the_ipxe_script():
    assert render_boot_script("http://10.87.0.1:8988", ("console=ttyS0",)) == (
        "#!ipxe\n"
        ":again\n"
        "echo Fetching the bootstrap OS from http://10.87.0.1:8988\n"
        "imgfree\n"
        "kernel --name kernel http://10.87.0.1:8988/boot/kernel?mac=${netX/mac:hexhyp} "
        "initrd=initrd initrd=site.cpio BOOTIF=01-${netX/mac:hexhyp} console=ttyS0 "
        "|| goto failed\n"
        "initrd --name initrd http://10.87.0.1:8988/boot/initrd?mac=${netX/mac:hexhyp} "
        "|| goto failed\n"
        "initrd --name site.cpio http://10.87.0.1:8988/boot/site.cpio?mac=${netX/mac:hexhyp} "
        "|| goto failed\n"
        "boot || goto failed\n"
        ":failed\n"
        "echo The bootstrap OS could not be fetched or started; trying again in 10 seconds.\n"
        "echo On the node server: provisionctl vnfs list shows whether a bootstrap was imported.\n"
        "sleep 10\n"
        "goto again\n"
    )


def dnsmasq_config(**words):
    return render_dnsmasq_config(
        **{
            "device": "eth1",
            "address": IPv4Interface("10.87.0.1/24"),
            "first": IPv4Address("10.87.0.100"),
            "last": IPv4Address("10.87.0.199"),
            "gateway": IPv4Address("10.87.0.254"),
            "name_servers": (IPv4Address("10.87.0.1"),),
            "domain": "cluster",
            "boot_url": "http://10.87.0.1:8988",
            "places": DnsmasqPlaces(
                leases=Path("/s/leases"), hosts=Path("/s/h"), names=Path("/s/n"), tftp=Path("/s/t")
            ),
            "as_root": False,
            **words,
        }
    )


def test_the_dnsmasq_configuration():
    lines = [line for line in dnsmasq_config().splitlines() if not line.startswith("#")]
    assert lines == [
        "keep-in-foreground",
        "log-facility=-",
        "pid-file=",
        "interface=eth1",
        "except-interface=lo",
        "bind-interfaces",
        "no-hosts",
        "no-resolv",
        "domain=cluster",
        "local=/cluster/",
        "expand-hosts",
        "",
        "dhcp-range=10.87.0.100,10.87.0.199,255.255.255.0,1h",
        "dhcp-lease-max=100",
        "dhcp-authoritative",
        "dhcp-ignore-clid",
        "dhcp-ignore-names",
        "dhcp-sequential-ip",
        "no-ping",
        "dhcp-leasefile=/s/leases",
        "dhcp-hostsdir=/s/h",
        "hostsdir=/s/n",
        "dhcp-option=option:router,10.87.0.254",
        "dhcp-option=option:dns-server,10.87.0.1",
        "",
        "enable-tftp",
        "tftp-root=/s/t",
        "dhcp-match=set:ipxe,175",
        "dhcp-match=set:efi64,option:client-arch,7",
        "dhcp-match=set:efi64,option:client-arch,9",
        "dhcp-match=set:efihttp,option:client-arch,16",
        "dhcp-option-force=tag:efihttp,option:vendor-class,HTTPClient",
        "dhcp-boot=undionly.kpxe",
        "dhcp-boot=tag:efi64,ipxe.efi",
        "dhcp-boot=tag:efihttp,http://10.87.0.1:8988/boot/ipxe.efi",
        "dhcp-boot=tag:ipxe,http://10.87.0.1:8988/boot.ipxe",
    ]


def test_what_is_not_set_is_not_told_to_nodes():
    text = dnsmasq_config(gateway=None, name_servers=(), domain="", as_root=True)
    assert "dhcp-option=option:router\n" in text
    assert "dhcp-option=option:dns-server\n" in text
    assert "domain=" not in text
    assert "user=root\ngroup=root\n" in text


@pytest.mark.parametrize(
    ("hwaddrs", "address", "line"),
    [
        (("52:54:00:00:00:01",), None, "52:54:00:00:00:01,n00001\n"),
        (
            ("52:54:00:00:00:01", "52:54:00:00:00:02"),
            "10.87.0.100",
            "52:54:00:00:00:01,52:54:00:00:00:02,10.87.0.100,n00001\n",
        ),
        ((":".join(["80"] * 20),), "10.87.0.100", ""),
    ],
)
def test_the_line_of_a_node(hwaddrs, address, line):
    assert render_host(hwaddrs, address, "n00001") == line


def test_dnsmasq_runs_with_three_capabilities_or_as_root():
    assert dnsmasq_argv(Path("/c"), owner=None) == [
        "setpriv", "--pdeathsig=TERM", "--", "dnsmasq", "--conf-file=/c",
    ]  # fmt: skip
    assert dnsmasq_argv(Path("/c"), owner=(999, 99)) == [
        "setpriv", "--reuid=999", "--regid=99", "--clear-groups",
        "--inh-caps=-all,+net_admin,+net_bind_service,+net_raw",
        "--ambient-caps=-all,+net_admin,+net_bind_service,+net_raw",
        "--bounding-set=-all,+net_admin,+net_bind_service,+net_raw",
        "--no-new-privs", "--pdeathsig=TERM", "--", "dnsmasq", "--conf-file=/c",
    ]  # fmt: skip


def read(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {
            item.name: (item.mode, item.linkname or archive.extractfile(item).read().decode())
            for item in archive
        }


def test_the_overlay_of_a_node():
    assert read(render_overlay(FACTS, SECRET, ())) == {
        "etc/hostname": (0o644, "n00001\n"),
        "etc/hosts": (
            0o644,
            "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n10.87.0.100 n00001\n",
        ),
        "etc/machine-id": (0o644, "b081a616aed1478631e97a5fbf536d10\n"),
        "etc/systemd/network/10-vnfs.network": (
            0o644,
            "[Match]\nMACAddress=52:54:00:00:00:02\n\n[Link]\nRequiredForOnline=yes\n\n"
            "[Network]\nAddress=10.87.0.100/24\n",
        ),
    }


def test_the_overlay_with_all_that_a_site_may_have():
    files = read(render_overlay(RICH, SECRET, ()))
    assert files["etc/systemd/network/10-vnfs.network"][1].endswith(
        "Address=10.87.0.100/24\nGateway=10.87.0.254\nDNS=10.87.0.1\nDNS=10.87.0.2\n"
        "Domains=cluster.example.org\n"
    )
    assert files["etc/resolv.conf"][1] == (
        "search cluster.example.org\nnameserver 10.87.0.1\nnameserver 10.87.0.2\n"
    )
    assert files["etc/hosts"][1].endswith("10.87.0.100 n00001.cluster.example.org n00001\n")


def test_the_overlay_is_the_same_bytes_each_time():
    extra = (OverlayFile(path="b", data=b"b"), OverlayFile(path="a", data=b"a", mode=0o755))
    first = render_overlay(FACTS, SECRET, extra)
    assert first == render_overlay(FACTS, SECRET, tuple(reversed(extra)))
    assert digest_of(first) != digest_of(render_overlay(RICH, SECRET, extra))


def test_files_of_the_site_keep_mode_and_link_and_come_before_ours():
    extra = (
        OverlayFile(path="etc/hostname", data=b"mine\n", mode=0o600),
        OverlayFile(path="etc/vnfs/ready.d/50-check", data=b"#!/bin/sh\n", mode=0o755),
        OverlayFile(path="etc/link", data=b"", mode=0o777, link="hostname"),
    )
    files = read(render_overlay(FACTS, SECRET, extra))
    assert files["etc/hostname"] == (0o600, "mine\n")
    assert files["etc/vnfs/ready.d/50-check"] == (0o755, "#!/bin/sh\n")
    assert files["etc/link"] == (0o777, "hostname")


@pytest.mark.parametrize(
    "extra",
    [OverlayFile(path="x" * 300, data=b""), OverlayFile(path="x", data=bytes(65 * 1024 * 1024))],
    ids=["long name", "large"],
)
def test_what_no_overlay_can_hold_is_told(extra):
    with pytest.raises(InputError, match="overlay"):
        render_overlay(FACTS, SECRET, (extra,))


def test_the_machine_id_hangs_on_secret_and_node():
    ids = {
        make_machine_id(secret, node)
        for secret in (SECRET, bytes(32))
        for node in ("52:54:00:00:00:01", "52:54:00:00:00:02")
    }
    assert len(ids) == 4
    assert all(len(found) == 32 and int(found, 16) for found in ids)


def test_site_cpio(tmp_path):
    data = render_site(trust=b"trust\n", ca=b"ca\n", servers=("https://10.87.0.1:8987",))
    subprocess.run(["cpio", "--extract", "--quiet"], input=data, cwd=tmp_path, check=True)
    site = tmp_path / "vnfs/site"
    assert {path.name: path.read_text() for path in site.iterdir()} == {
        "ca.pem": "ca\n",
        "site.json": '{"protocol":1,"servers":["https://10.87.0.1:8987"]}',
        "trust.json": "trust\n",
    }


def test_site_cpio_without_trust_is_still_one():
    data = render_site(trust=None, ca=b"ca\n", servers=())
    assert b"trust.json" not in data
    assert data.endswith(b"TRAILER!!!\0\0\0\0")
