"""The command lines of provisiond and provisionctl, and how an error becomes words and a status."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from provisiond.commands.context import DEFAULT_CONFIG, Context
from vnfsbuild.errors import VnfsbuildError, render_error
from vnfsbuild.listing import printable
from vnfsbuild.verbs import Verbs

logger = logging.getLogger(__name__)

INTERRUPTED = 130

NODE = ("provisiond.commands.node", "node", "Nodes: who they are, what they boot, how they are.")
GROUP = ("provisiond.commands.group", "group", "Nodes that share settings.")
VNFS = ("provisiond.commands.vnfs", "vnfs", "Capsules and bootstraps that nodes are given.")
DAEMON_VERBS = {
    "group": GROUP,
    "init": ("provisiond.commands.init", "command", "Write provisiond.toml, make the authority."),
    "node": NODE,
    "serve": ("provisiond.commands.serve", "command", "Serve nodes until it is ended."),
    "vnfs": VNFS,
}
CONTROL_VERBS = {
    "defaults": ("provisiond.commands.defaults", "defaults", "What counts where nothing is set."),
    "events": ("provisiond.commands.events", "command", "What happened, and what happens."),
    "export": ("provisiond.commands.transfer", "export", "Write all that is set, for git."),
    "group": GROUP,
    "hooks": ("provisiond.commands.hooks", "command", "Programs that are run for events."),
    "import": ("provisiond.commands.transfer", "import_", "Make a file all that is set."),
    "lab": ("provisiond.lab.command", "lab", "Boot virtual nodes on this machine."),
    "node": NODE,
    "rollout": ("provisiond.commands.rollout", "rollout", "Nodes that go over to a capsule."),
    "simulate": (
        "provisiond.lab.simulate_command",
        "command",
        "Try how many nodes this machine can serve.",
    ),
    "overlay": ("provisiond.commands.overlay", "overlay", "Files laid over capsules, per node."),
    "vnfs": VNFS,
}
"""Verb → module, name in it, and the line in ``--help``."""


class DaemonVerbs(Verbs):
    """What provisiond does."""

    verbs = DAEMON_VERBS


class ControlVerbs(Verbs):
    """What provisionctl does."""

    verbs = CONTROL_VERBS


_SETTINGS = {"help_option_names": ["-h", "--help"]}
_DEBUG = click.option("--debug", is_flag=True, help="Tell every step.")
_SOCKET = click.option(
    "--socket", type=click.Path(path_type=Path), envvar="PROVISIOND_SOCKET",
    help="The daemon's socket; also PROVISIOND_SOCKET. Default: as configured.",
)  # fmt: skip
_CONFIG = click.option(
    "--config", type=click.Path(path_type=Path), envvar="PROVISIOND_CONFIG",
    default=DEFAULT_CONFIG, show_default=True, help="The configuration; also PROVISIOND_CONFIG.",
)  # fmt: skip


@click.command("provisiond", cls=DaemonVerbs, context_settings=_SETTINGS)
@_CONFIG
@_SOCKET
@_DEBUG
@click.pass_context
def daemon(ctx: click.Context, config: Path, socket: Path | None, debug: bool) -> None:
    """The node server: knows the nodes, answers them, hands out capsules."""
    _start(ctx, config, socket, debug=debug)


@click.command("provisionctl", cls=ControlVerbs, context_settings=_SETTINGS)
@_CONFIG
@_SOCKET
@_DEBUG
@click.pass_context
def control(ctx: click.Context, config: Path, socket: Path | None, debug: bool) -> None:
    """What an administrator of nodes types."""
    _start(ctx, config, socket, debug=debug)


def run(command: click.Command, arguments: Sequence[str] | None = None) -> int:
    """Run *command* with *arguments*, else those of this process; return the exit status."""
    try:
        status = command.main(arguments, prog_name=command.name, standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except VnfsbuildError as error:
        logger.debug("%s", "".join(traceback.format_exception(error)))
        click.echo(printable(render_error(error)), err=True)
        return error.exit_status
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:  # noqa: BLE001 - the last edge: anything else is a bug, and is told so
        click.echo(traceback.format_exc(), err=True, nl=False)
        click.echo(f"this is a bug in {command.name}, please report it", err=True)
        return 1


def _start(ctx: click.Context, config: Path, socket: Path | None, *, debug: bool) -> None:
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO, format="%(message)s", stream=sys.stderr
    )
    ctx.obj = Context(config=config.absolute(), socket=socket)
