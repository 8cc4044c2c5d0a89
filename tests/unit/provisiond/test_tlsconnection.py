"""TLS for thousands of connections: what each keeps is little, and none sees another's bytes."""

import asyncio
import datetime
import os
import ssl
from ipaddress import IPv4Address

import pytest

from provisiond.api.tlsconnection import READ_BYTES, TlsConnection, encrypted
from provisiond.authority import Authority

CLIENTS = 8
MESSAGE_BYTES = 5 * READ_BYTES + 7


class Echo(asyncio.Protocol):
    """Sends back what comes, in the pieces that it comes in."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    made = Authority(tmp_path_factory.mktemp("authority"))
    now = datetime.datetime.now(tz=datetime.UTC)
    made.create(now=now)
    made.ensure_server_certificate(IPv4Address("127.0.0.1"), now=now)
    return made


def serve(authority, story, *, handshake_seconds=10):
    """Run *story* with the port of a server that echoes, and all its connections."""
    made = []

    async def run():
        make = encrypted(Echo, authority.tls_context(), handshake_seconds)

        def note():
            made.append(make())
            return made[-1]

        server = await asyncio.get_running_loop().create_server(note, "127.0.0.1", 0)
        async with server:
            await story(server.sockets[0].getsockname()[1], made)

    asyncio.run(run())


def client_context(authority):
    context = ssl.create_default_context(cafile=str(authority.ca_certificate))
    context.check_hostname = False
    return context


def test_connections_share_a_buffer_and_mix_nothing_up(authority):
    async def one(port, context):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        message = os.urandom(MESSAGE_BYTES)
        for start in range(0, MESSAGE_BYTES, 1000):
            writer.write(message[start : start + 1000])
            await writer.drain()
            await asyncio.sleep(0)
        assert await reader.readexactly(MESSAGE_BYTES) == message
        writer.close()

    async def story(port, made):
        context = client_context(authority)
        await asyncio.wait_for(asyncio.gather(*(one(port, context) for _ in range(CLIENTS))), 30)
        assert len({id(connection._ssl_buffer) for connection in made}) == 1

    serve(authority, story)


def test_what_asyncio_keeps_has_its_place(authority):
    """Else each connection has a dictionary of more than a kilobyte."""

    async def story(port, made):
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context(authority))
        (connection,) = made
        assert isinstance(connection, TlsConnection)
        assert len(vars(connection)) < 10, sorted(vars(connection))
        writer.close()

    serve(authority, story)


def test_who_does_not_speak_tls_is_cut_off(authority):
    async def story(port, _made):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await asyncio.wait_for(reader.read(), 10)
        writer.close()

    serve(authority, story, handshake_seconds=1)
