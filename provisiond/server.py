"""The serving process: makes the parts, listens, ticks, and ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import grp
import json
import logging
import os
import pwd
import resource
import signal
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator

from aiohttp import web

from provisiond.administration.administration import Administration
from provisiond.api.agents import AgentHandler, make_agent_handler
from provisiond.api.api import make_admin_app, make_boot_app
from provisiond.api.slowclients import SlowClients
from provisiond.api.tlsconnection import encrypted
from provisiond.authority import Authority
from provisiond.catalogue import Catalogue
from provisiond.config import Config
from provisiond.datagrams import Datagrams
from provisiond.events.events import EventLog
from provisiond.events.runner import HookRunner
from provisiond.hosts import HostsDirectory
from provisiond.ipxe import render_boot_script
from provisiond.nodes.database import NodeDatabase
from provisiond.nodes.leases import LeaseFile
from provisiond.nodes.registry import Registry
from provisiond.overlays.overlays import Overlays
from provisiond.parts import Parts
from provisiond.prepare import find_group
from provisiond.service import Service
from provisiond.site import render_site
from provisiond.statedir import StateDir
from provisiond.supervisor import READ_HOSTS, READY
from provisiond.watch import keep_events, watch
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import VnfsbuildError

logger = logging.getLogger(__name__)

BACKLOG = 2048
ACCEPTED_AT_ONCE = 32
"""Between two rounds of those who are connected already: a flood of new ones delays them less."""
HANDSHAKE_SECONDS = 10
KEEPALIVE_SECONDS = 75
TRIM_SECONDS = 15.0
SHUTDOWN_SECONDS = 0.5
"""Those who wait are cut off soon: they ask again."""


def run_server(config: Config, channel: socket.socket) -> int:
    """Serve until SIGTERM; *channel* leads to the parent. Return the exit status."""
    try:
        _verify_readable()
        _raise_file_limit()
        asyncio.run(_serve(config, channel))
    except VnfsbuildError as error:
        logger.error("%s%s", error, f" (hint: {error.hint})" if error.hint else "")
        return error.exit_status
    return 0


async def _serve(config: Config, channel: socket.socket) -> None:
    state = StateDir(path=config.state_dir)
    channel.setblocking(False)
    from_parent, to_parent = await asyncio.open_connection(sock=channel)
    parts = await _make_parts(config, state, functools.partial(to_parent.write, READ_HOSTS + b"\n"))
    service = Service(parts)
    hooks = HookRunner(
        config.hooks_directory, timeout_seconds=config.hooks_timeout_seconds,
        registry=parts.registry, events=parts.events, clock=parts.clock,
    )  # fmt: skip
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with _listening(config, state, parts, service, hooks), asyncio.TaskGroup() as tasks:
            parts.hosts.replace_all(parts.registry.nodes)
            to_parent.write(READY + b"\n")
            logger.info("agents: %s; boot: %s; provisionctl: %s",
                        config.server_url, config.boot_url, config.socket)  # fmt: skip
            watching = [
                tasks.create_task(watch(parts, service)),
                tasks.create_task(keep_events(parts)),
                tasks.create_task(hooks.run()),
                tasks.create_task(_hear_parent(from_parent, parts.events)),
                tasks.create_task(_give_memory_back()),
            ]
            await stop.wait()
            for task in watching:
                task.cancel()
    finally:
        await parts.registry.close()
        to_parent.close()


async def _make_parts(
    config: Config, state: StateDir, tell_dnsmasq: functools.partial[None]
) -> Parts:
    catalogue = Catalogue(state.store, trust=state.trust, trust_source=config.trust)
    await asyncio.to_thread(catalogue.collect_garbage)
    await asyncio.to_thread(catalogue.refresh)
    registry = Registry(NodeDatabase(config.database or state.database))
    return Parts(
        config=config,
        registry=registry,
        catalogue=catalogue,
        events=EventLog(),
        leases=LeaseFile(state.dnsmasq.leases),
        hosts=HostsDirectory(state.dnsmasq, tell_dnsmasq),
        overlays=Overlays(config, Authority(state.authority).load_site_secret(), registry),
        clock=time.time,
        authority_digest=digest_of(Authority(state.authority).load_ca_certificate()),
        send=Datagrams(str(config.address.ip)).send,
    )


@contextlib.asynccontextmanager
async def _listening(
    config: Config, state: StateDir, parts: Parts, service: Service, hooks: HookRunner
) -> AsyncIterator[None]:
    """Listen on the three sockets while the block runs.

    Raises:
        VnfsbuildError: an address is taken, or is not this machine's.
    """
    authority = Authority(state.authority)
    ca = authority.load_ca_certificate()

    def site(words: bytes) -> bytes:
        trust = parts.catalogue.trust_bytes
        return render_site(trust=trust, ca=ca, servers=config.server_urls, words=words)

    boot_app = make_boot_app(
        service.firmware,
        parts.catalogue,
        script=render_boot_script(config.boot_url, config.kernel_arguments),
        render_site=site,
        loaders=state.dnsmasq.tftp,
    )
    admin_app = make_admin_app(
        Administration(parts, service, hooks),
        is_allowed=functools.partial(_is_administrator, config.group),
        incoming=state.incoming,
    )
    address = str(config.address.ip)
    async with contextlib.AsyncExitStack() as stack:
        agents = make_agent_handler(service)
        tls = authority.tls_context()
        await stack.enter_async_context(_tcp(agents, address, config.port, tls))
        await stack.enter_async_context(_tcp(boot_app, address, config.boot_port, None))
        await stack.enter_async_context(_unix(admin_app, config))
        yield


@contextlib.asynccontextmanager
async def _tcp(
    served: web.Application | AgentHandler, address: str, port: int, tls: ssl.SSLContext | None
) -> AsyncIterator[None]:
    slow = SlowClients()
    runner = _make_runner(served, slow)
    await runner.setup()
    assert runner.server is not None
    try:
        listening = socket.create_server((address, port), backlog=BACKLOG)
        server = await asyncio.get_running_loop().create_server(
            encrypted(runner.server, tls, HANDSHAKE_SECONDS) if tls else runner.server,
            sock=listening,
            backlog=ACCEPTED_AT_ONCE,
        )
        # asyncio takes its backlog for both: what the kernel holds, and what is accepted in one go.
        listening.listen(BACKLOG)
    except OSError as error:
        await runner.cleanup()
        raise VnfsbuildError(
            f"{address} port {port}: {error.strerror or error}",
            hint=f"ip address shows whether {address} is there, ss --listening who has the port",
        ) from error
    closing = asyncio.create_task(slow.close_them(runner.server))
    try:
        yield
    finally:
        closing.cancel()
        server.close()
        await runner.cleanup()


def _make_runner(
    served: web.Application | AgentHandler, slow: SlowClients
) -> web.AppRunner | web.ServerRunner:
    """Return what runs *served*; *slow* knows of its connections."""
    if isinstance(served, web.Application):
        slow.watch(served)
        return web.AppRunner(
            served,
            access_log=None,
            shutdown_timeout=SHUTDOWN_SECONDS,
            keepalive_timeout=KEEPALIVE_SECONDS,
        )
    server = web.Server(slow.noting(served), access_log=None, keepalive_timeout=KEEPALIVE_SECONDS)
    return web.ServerRunner(server, shutdown_timeout=SHUTDOWN_SECONDS)


@contextlib.asynccontextmanager
async def _unix(app: web.Application, config: Config) -> AsyncIterator[None]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    # The lock on the state directory says that no other daemon listens there.
    config.socket.unlink(missing_ok=True)
    try:
        await web.UnixSite(runner, str(config.socket)).start()
        config.socket.chmod(0o660)
        group = find_group(config.group)
        if group is not None:
            os.chown(config.socket, -1, group)
    except OSError as error:
        await runner.cleanup()
        raise VnfsbuildError(f"{config.socket}: {error.strerror or error}") from error
    try:
        yield
    finally:
        await runner.cleanup()
        config.socket.unlink(missing_ok=True)


def _is_administrator(group: str, request: web.Request) -> bool:
    """Tell whether the process at the other end is root, this daemon's user, or in *group*."""
    end = request.transport.get_extra_info("socket") if request.transport else None
    if end is None:
        return False
    data = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, gid = struct.unpack("3i", data)
    if uid in (0, os.geteuid()):
        return True
    try:
        found = grp.getgrnam(group)
        return gid == found.gr_gid or pwd.getpwuid(uid).pw_name in found.gr_mem
    except KeyError:
        return False


async def _hear_parent(reader: asyncio.StreamReader, events: EventLog) -> None:
    """Record what the parent tells, until it is gone."""
    while line := await reader.readline():
        told = json.loads(line)
        events.add(told["kind"], told["text"], now=time.time())


async def _give_memory_back() -> None:
    """Give the kernel what handshakes needed for a moment: a third of all, when many nodes wait."""
    # Other C libraries than glibc have no such function, and do it by themselves.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim is not None:
        await asyncio.sleep(TRIM_SECONDS)
        await asyncio.to_thread(trim, 0)


def _verify_readable() -> None:
    """Make sure that this user can import what is not imported yet.

    Raises:
        VnfsbuildError: Python, or this program, lies where only another user can read.
    """
    for path in (os.__file__, __file__):
        if not os.access(path, os.R_OK):
            raise VnfsbuildError(
                f"{path}: the user {pwd.getpwuid(os.getuid()).pw_name}, who is to serve, "
                "cannot read it",
                hint='provisiond.toml: user = "", or install where every user can read',
            )


def _raise_file_limit() -> None:
    """Take as many open files as we may: each waiting node is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
