"""Check-ins by TLS: who is believed, from which port, and how it is told when nobody answers."""

import os
import socket

import pytest

from provisiond.agent.client import NetworkError, make_context
from provisiond.agent.site import load_site
from provisiond.protocol import Answer, Checkin, PlannedOverlay, plan_digest
from vnfsbuild.digest import digest_of, render_json
from vnfsbuild.errors import VnfsbuildError

CHECKIN = Checkin(hwaddrs=("52:54:00:00:00:01",), boot_id="0" * 32, state="init")


def test_a_check_in_is_answered(world, tmp_path, node_server, make_client, authority):
    site = world.write_site(tmp_path / "site", authority, [node_server.url])
    answer = make_client(site).checkin(CHECKIN)
    assert answer == Answer(world.waiting(), world.NOW, digest=plan_digest(world.waiting()))
    assert node_server.checkins == [CHECKIN]


@pytest.mark.parametrize("years", [-30, 30])
def test_dates_of_the_certificate_do_not_matter(world, tmp_path, make_client, years):
    authority = world.make_authority(tmp_path / "authority", years=years)
    server = world.NodeServer(authority.context())
    try:
        site = world.write_site(tmp_path / "site", authority, [server.url])
        assert make_client(site).checkin(CHECKIN)
    finally:
        server.stop()


def test_another_ca_is_not_believed(world, tmp_path, node_server, make_client):
    other = world.make_authority(tmp_path / "other")
    site = world.write_site(tmp_path / "site", other, [node_server.url])
    with pytest.raises(NetworkError, match="its certificate is not to be trusted"):
        make_client(site).checkin(CHECKIN)
    assert not node_server.checkins


def test_a_certificate_for_another_address_is_not_believed(world, tmp_path, make_client):
    authority = world.make_authority(tmp_path / "authority", address="127.0.0.2")
    server = world.NodeServer(authority.context())
    try:
        site = world.write_site(tmp_path / "site", authority, [server.url])
        with pytest.raises(NetworkError, match="IP address mismatch"):
            make_client(site).checkin(CHECKIN)
    finally:
        server.stop()


def test_the_next_server_is_asked_and_then_kept(
    world, tmp_path, node_server, make_client, authority
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"https://127.0.0.1:{free.getsockname()[1]}"
    client = make_client(world.write_site(tmp_path / "site", authority, [nobody, node_server.url]))
    for _ in range(2):
        client.checkin(CHECKIN)
    assert client._servers == [node_server.url, nobody]


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ((b"not json", 200), "not JSON"),
        ((b"[]", 200), "found list"),
        ((b"x" * 1_100_000, 200), "more than"),
        ((b'{"error":"no such node"}', 404), "answered 404: no such node"),
        ((b"<h1>Bad\x1b gateway</h1>", 502), r"answered 502: <h1>Bad\? gateway"),
    ],
)
def test_what_is_no_answer_is_told(
    world, tmp_path, node_server, make_client, authority, reply, told
):
    node_server.answer = lambda checkin: reply
    site = world.write_site(tmp_path / "site", authority, [node_server.url])
    with pytest.raises(NetworkError, match=told):
        make_client(site).checkin(CHECKIN)


def test_a_wish_to_be_asked_later_is_kept(world, tmp_path, node_server, make_client, authority):
    node_server.answer = lambda checkin: (b"busy", 503, {"Retry-After": "17"})
    site = world.write_site(tmp_path / "site", authority, [node_server.url])
    with pytest.raises(NetworkError) as caught:
        make_client(site).checkin(CHECKIN)
    assert caught.value.retry_after_seconds == 17


def test_an_answer_that_does_not_come_is_not_waited_for(
    world, tmp_path, node_server, make_client, authority
):
    import threading

    stop = threading.Event()
    node_server.answer = lambda checkin: stop.wait(5) or (b"", 200)
    site = world.write_site(tmp_path / "site", authority, [node_server.url])
    with pytest.raises(NetworkError, match="no answer in time"):
        make_client(site, timeout_seconds=0.3).checkin(CHECKIN)
    stop.set()


@pytest.mark.skipif(os.geteuid() != 0, reason="ports below 1024 are root's")
def test_requests_leave_from_a_privileged_port_and_another_when_it_is_taken(
    world, tmp_path, node_server, make_client, authority
):
    site = world.write_site(tmp_path / "site", authority, [node_server.url])
    with socket.socket() as taken:
        taken.bind(("", 0))
        ports = [taken.getsockname()[1], 771, 772, 773]
        client = make_client(site, source_ports=ports)
        for _ in range(2):
            client.checkin(CHECKIN)
    assert {address[1] for _, address in node_server.requests} <= {771, 772, 773}


def test_an_overlay_is_fetched_with_the_node_key(
    world, tmp_path, node_server, make_client, authority
):
    data = b"tar" * 1000
    overlay = PlannedOverlay(digest_of(data), len(data))
    node_server.overlays[overlay.digest] = data
    client = make_client(world.write_site(tmp_path / "site", authority, [node_server.url]))
    who = {"node_id": world.NODE_ID, "boot_id": "0" * 32}
    assert b"".join(client.overlay(overlay, node_key=world.NODE_KEY, **who)) == data
    with pytest.raises(NetworkError, match="answered 403: no overlay for this node"):
        b"".join(client.overlay(overlay, node_key=None, **who))


def test_an_overlay_is_had_from_the_server_that_is_there(
    world, tmp_path, node_server, make_client, authority
):
    data = b"tar" * 1000
    overlay = PlannedOverlay(digest_of(data), len(data))
    node_server.overlays[overlay.digest] = data
    servers = ["https://127.0.0.1:1", node_server.url]
    client = make_client(world.write_site(tmp_path / "site", authority, servers))
    who = {"node_id": world.NODE_ID, "boot_id": "0" * 32, "node_key": world.NODE_KEY}
    assert b"".join(client.overlay(overlay, **who)) == data


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("site.json", None, "without its site.cpio"),
        ("ca.pem", None, "without its site.cpio"),
        ("site.json", b"{}", "not a site's description"),
        ("site.json", b"[1]", "not a site's description"),
        ("site.json", render_json({"protocol": 9, "servers": ["https://h"]}), "protocol 9"),
        ("site.json", render_json({"protocol": 1, "servers": []}), "expected https://"),
        ("site.json", render_json({"protocol": 1, "servers": ["http://h"]}), "expected https://"),
        ("site.json", render_json({"protocol": 1, "servers": "https://h"}), "expected https://"),
    ],
)
def test_a_site_that_is_none_is_told(world, tmp_path, authority, name, text, told):
    world.write_site(tmp_path, authority, ["https://127.0.0.1:1"])
    if text is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(text)
    with pytest.raises(VnfsbuildError, match=told):
        load_site(tmp_path)


def test_a_ca_that_is_none_is_told(world, tmp_path, authority):
    site = world.write_site(tmp_path, authority, ["https://127.0.0.1:1"])
    site.ca_file.write_text("nothing")
    with pytest.raises(VnfsbuildError, match="not a CA's certificate"):
        make_context(site)


def test_each_node_asks_the_servers_in_an_order_of_its_own(world, tmp_path, make_client, authority):
    servers = [f"https://10.0.0.{number}:8987" for number in (1, 2, 3)]
    site = world.write_site(tmp_path / "site", authority, servers)
    assert make_client(site)._servers == servers
    orders = {
        tuple(make_client(site, node_id=f"52:54:00:00:00:{number:02x}")._servers)
        for number in range(60)
    }
    assert len(orders) == 6


def test_of_several_servers_that_ask_for_time_the_soonest_counts(
    world, tmp_path, node_server, make_client, authority
):
    other = world.NodeServer(authority.context())
    try:
        node_server.answer = lambda checkin: (b"busy", 503, {"Retry-After": "40"})
        other.answer = lambda checkin: (b"busy", 503, {"Retry-After": "17"})
        urls = [other.url, node_server.url, "https://127.0.0.1:1"]
        site = world.write_site(tmp_path / "site", authority, urls)
        with pytest.raises(NetworkError) as caught:
            make_client(site).checkin(CHECKIN)
    finally:
        other.stop()
    assert caught.value.retry_after_seconds == 17
    assert all(url in str(caught.value) for url in urls)


def test_a_machine_that_vanishes_while_it_holds_an_answer_is_noticed(
    world, tmp_path, node_server, make_client, authority
):
    site = world.write_site(tmp_path / "site", authority, [node_server.url])
    connection = make_client(site)._connect(node_server.url, 5)
    try:
        end = connection.sock
        assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        every = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
        count = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
        assert idle + every * count <= 60
    finally:
        connection.close()
