"""``provisiond serve``: the daemon."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator

import click

from provisiond.commands.context import Context
from provisiond.dnsmasq_config import dnsmasq_argv
from provisiond.prepare import find_dnsmasq_owner, find_group, find_owner, prepare
from provisiond.server import run_server
from provisiond.statedir import StateDir
from provisiond.supervisor import Supervisor, verify_root_for_dnsmasq
from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.files import locked

logger = logging.getLogger(__name__)


@click.command()
@click.pass_obj
def command(context: Context) -> int:
    """Serve nodes until it is ended."""
    config = context.load_config()
    state = StateDir(path=config.state_dir)
    if not state.authority.is_dir():
        raise InputError(f"{state.path}: found no state of a node server",
                         hint=f"provisiond init --state-dir {state.path}")  # fmt: skip
    if config.dnsmasq:
        verify_root_for_dnsmasq()
    owner = find_owner(config.user)
    if owner is None and config.user:
        logger.warning("user %s: not there or not to be had; serving as the present user",
                       config.user)  # fmt: skip
    with _alone(state):
        prepare(config, state, owner=owner)
        group = find_group(config.group)
        dnsmasq = find_dnsmasq_owner(config)
        argv = dnsmasq_argv(
            state.dnsmasq_config, owner=(dnsmasq.uid, dnsmasq.gid) if dnsmasq else None
        )
        return Supervisor(
            functools.partial(run_server, config),
            owner=owner,
            groups=[] if group is None else [group],
            dnsmasq_argv=argv if config.dnsmasq else None,
        ).run()


@contextlib.contextmanager
def _alone(state: StateDir) -> Iterator[None]:
    """Hold the lock that says that nobody else serves from this directory."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(state.lock, wait=False))
        except VnfsbuildError as error:
            raise VnfsbuildError(
                f"{state.path}: another provisiond serves from it",
                hint="provisionctl node status talks to that one; end it to start another",
            ) from error
        yield
