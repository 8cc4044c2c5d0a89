"""Texts that other programs read, in full."""

import subprocess
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from provisiond.dnsmasq_config import (
    DnsmasqPlaces,
    dnsmasq_argv,
    render_dnsmasq_config,
    render_host,
)
from provisiond.ipxe import render_boot_script, render_choice
from provisiond.site import render_site


def test_the_ipxe_script():
    assert render_boot_script("http://10.87.0.1:8988", ("console=ttyS0",)) == (
        "#!ipxe\n"
        ":again\n"
        "imgfree\n"
        "set vnfs-choice bootstrap\n"
        "chain --autofree http://10.87.0.1:8988/boot/choice.ipxe?mac=${netX/mac:hexhyp} "
        "|| goto bootstrap\n"
        "iseq ${vnfs-choice} local && goto local || goto bootstrap\n"
        ":bootstrap\n"
        "echo Fetching the bootstrap OS from http://10.87.0.1:8988\n"
        "kernel --name kernel http://10.87.0.1:8988/boot/kernel?mac=${netX/mac:hexhyp} "
        "initrd=initrd initrd=site.cpio initrd=drivers.cpio BOOTIF=01-${netX/mac:hexhyp} "
        "vnfs.loader=asks console=ttyS0 || goto failed\n"
        "initrd --name initrd http://10.87.0.1:8988/boot/initrd?mac=${netX/mac:hexhyp} "
        "|| goto failed\n"
        "initrd --name site.cpio http://10.87.0.1:8988/boot/site.cpio?mac=${netX/mac:hexhyp} "
        "|| goto failed\n"
        "initrd --name drivers.cpio http://10.87.0.1:8988/boot/drivers.cpio"
        "?mac=${netX/mac:hexhyp} || goto failed\n"
        "boot || goto failed\n"
        ":failed\n"
        "echo The bootstrap OS could not be fetched or started; trying again in 10 seconds.\n"
        "echo On the node server: provisionctl vnfs list shows whether a bootstrap was imported.\n"
        "sleep 10\n"
        "goto again\n"
        ":local\n"
        "echo This node boots from its own disk, as its plan says.\n"
        "iseq ${platform} efi && exit 1 ||\n"
        "sanboot --no-describe --drive 0x80 ||\n"
        "echo There is no disk that starts; asking again in 10 seconds.\n"
        "sleep 10\n"
        "goto again\n"
    )
    assert render_choice(True) == "#!ipxe\nset vnfs-choice local\n"
    assert render_choice(False) == "#!ipxe\n"


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
