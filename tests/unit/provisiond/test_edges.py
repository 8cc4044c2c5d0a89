"""Leases, hosts, events, overlay files, the authority."""

import asyncio
import datetime
import json
import os
import ssl
from ipaddress import IPv4Address

import pytest
from cryptography import x509

from provisiond.authority import Authority, make_node_key
from provisiond.events.events import KEPT, EventLog, Wanted
from provisiond.hosts import HostsDirectory
from provisiond.nodes.leases import LeaseFile, parse_leases
from provisiond.nodes.model import Node
from provisiond.overlays.folders import load_overlay_files
from provisiond.statedir import StateDir
from vnfsbuild.errors import InputError

LEASES = """\
duid 00:01:00:01
1700003600 52:54:00:00:00:01 10.87.0.100 n00001 *
1699999999 52:54:00:00:00:02 10.87.0.101 * 01:52
0 52:54:00:00:00:03 10.87.0.102 * *
0 52:54:00:00:00:03 10.87.0.103 * *
rubbish
1700003600 1:2 fe80::1 * *
"""


def test_leases_that_have_ended_and_other_lines_are_passed_over():
    assert parse_leases(LEASES, now=1_700_000_000) == {
        "52:54:00:00:00:01": ("10.87.0.100",),
        "52:54:00:00:00:03": ("10.87.0.102", "10.87.0.103"),
    }


def test_the_lease_file_is_read_again_when_it_changed(tmp_path):
    path = tmp_path / "leases"
    leases = LeaseFile(path)
    assert leases.read(now=0) == {}
    path.write_text("0 a:b 10.0.0.1 * *\n")
    assert leases.read(now=0) == {"a:b": ("10.0.0.1",)}
    path.write_text("0 a:b 10.0.0.22 * *\n")
    assert leases.read(now=0) == {"a:b": ("10.0.0.22",)}


def node(number, **words):
    hwaddr = f"52:54:00:00:00:{number:02x}"
    return Node(node_id=hwaddr, name=f"n{number}", hwaddrs=(hwaddr,), **words)


def test_dnsmasq_is_told_only_when_a_host_changed_or_went(tmp_path):
    told = []
    places = StateDir(path=tmp_path).dnsmasq
    for directory in (places.hosts, places.names):
        directory.mkdir()
        (directory / "old").write_text("x")
    hosts = HostsDirectory(places, lambda: told.append(1))

    def written():
        return {
            directory.name: [path.read_text() for path in directory.iterdir()]
            for directory in (places.hosts, places.names)
        }

    hosts.replace_all({})
    assert written() == {"hosts": [], "names": []}
    assert len(told) == 1
    hosts.update((node(1),))
    hosts.update((node(1),))
    assert written() == {"hosts": ["52:54:00:00:00:01,n1\n"], "names": [""]}
    assert len(told) == 1
    hosts.update((node(1, address="10.0.0.1"),))
    assert written() == {
        "hosts": ["52:54:00:00:00:01,10.0.0.1,n1\n"],
        "names": ["10.0.0.1 n1\n"],
    }
    hosts.update((node(1, address="10.0.0.1", attributes={"address": "10.0.0.2"}),))
    assert written() == {
        "hosts": ["52:54:00:00:00:01,10.0.0.2,n1\n"],
        "names": ["10.0.0.2 n1\n"],
    }
    assert len(told) == 3
    hosts.update((), deleted=(node(1).node_id,))
    assert written() == {"hosts": [], "names": []}
    assert len(told) == 4


def test_events_wake_who_waits_and_the_oldest_go():
    async def story():
        log = EventLog()
        waiting = asyncio.create_task(log.wait(Wanted(), wait_seconds=5))
        await asyncio.sleep(0.01)
        log.add("node.new", "x", now=1.0, node="n1")
        (event,) = await asyncio.wait_for(waiting, 1)
        assert (event.id, event.kind, event.node, event.text) == (1, "node.new", "n1", "x")
        assert await log.wait(Wanted(since=1), wait_seconds=0.01) == ()
        for number in range(KEPT):
            log.add("node.state", str(number), now=2.0)
        assert len(log.since(0)) == KEPT
        assert len(log.since(log.last - 3)) == 3
        # The reader saw a daemon that lived longer than this one.
        assert len(log.since(10 * KEPT)) == KEPT

    asyncio.run(story())


def test_overlay_files_keep_modes_and_links(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/a").write_text("a")
    (tmp_path / "etc/a").chmod(0o750)
    (tmp_path / "etc/b").symlink_to("a")
    found = load_overlay_files(tmp_path)
    assert [(file.path, file.mode, file.data, file.link) for file in found] == [
        ("etc/a", 0o750, b"a", None),
        ("etc/b", 0o777, b"", "a"),
    ]


def test_a_special_file_is_no_overlay(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: found a special file"):
        load_overlay_files(tmp_path)


NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
ADDRESS = IPv4Address("10.87.0.1")


@pytest.fixture
def authority(tmp_path):
    made = Authority(tmp_path / "authority")
    made.create(now=NOW)
    return made


def test_secrets_are_for_the_owner_only(authority):
    authority.ensure_server_certificate(ADDRESS, now=NOW)
    modes = {path.name: path.stat().st_mode & 0o777 for path in authority.path.iterdir()}
    assert modes == {
        "ca.key": 0o600, "ca.pem": 0o644, "server.key": 0o600, "server.pem": 0o644,
        "site.secret": 0o600,
    }  # fmt: skip
    assert len(authority.load_site_secret()) == 32


def test_the_certificate_is_made_anew_when_it_is_not_good_any_more(authority):
    def certificate(address=ADDRESS, now=NOW):
        authority.ensure_server_certificate(address, now=now)
        return authority.server_certificate.read_bytes()

    first = certificate()
    assert certificate() == first
    assert certificate(now=NOW + datetime.timedelta(days=700)) == first
    late = certificate(now=NOW + datetime.timedelta(days=800))
    assert late != first
    moved = certificate(IPv4Address("10.88.0.1"))
    names = x509.load_pem_x509_certificate(moved).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.IPAddress) == [IPv4Address("10.88.0.1")]
    authority.server_key.write_bytes(b"rubbish")
    assert certificate(IPv4Address("10.88.0.1")) != moved


def test_python_accepts_the_certificate_strictly(authority):
    """What Python 3.13 asks of certificates by default."""
    authority.ensure_server_certificate(ADDRESS, now=datetime.datetime.now(tz=datetime.UTC))
    server = authority.tls_context()
    client = ssl.create_default_context(cadata=authority.load_ca_certificate().decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    # No certificate check of dates here: NOW of the authority may lie in the future.
    client.verify_flags |= 0x200000
    ends = [ssl.MemoryBIO() for _ in range(2)]
    asks = client.wrap_bio(ends[0], ends[1], server_hostname=str(ADDRESS))
    answers = server.wrap_bio(ends[1], ends[0], server_side=True)
    for _ in range(4):
        for side in (asks, answers):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert asks.version() in ("TLSv1.2", "TLSv1.3")
    assert json.dumps(asks.getpeercert()["subjectAltName"]) == '[["IP Address", "10.87.0.1"]]'


def test_what_is_missing_or_broken_is_told(tmp_path, authority):
    with pytest.raises(InputError, match=r"ca\.pem: No such file") as caught:
        Authority(tmp_path / "none").ensure_server_certificate(ADDRESS, now=NOW)
    assert caught.value.hint == "provisiond init makes it"
    authority.site_secret.write_text("abcd")
    with pytest.raises(InputError, match="found 2 bytes, expected 32"):
        authority.load_site_secret()


def test_node_keys_are_random():
    keys = {make_node_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(len(key) == 64 and int(key, 16) for key in keys)
