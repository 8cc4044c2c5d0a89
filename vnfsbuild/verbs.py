"""A command's verbs, each loaded only when it is used: ``--help`` stays fast."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping

import click


class Verbs(click.Group):
    """A group whose verbs stand in a table."""

    verbs: Mapping[str, tuple[str, str, str]]
    """verb → module, name in it, and the line in ``--help``, which loads none of them"""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs, by alphabet."""
        return sorted(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the verb *cmd_name*."""
        if cmd_name not in self.verbs:
            return None
        module, name, _ = self.verbs[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the verb that *args* begin with.

        Raises:
            UsageError: there is none; the nearest one is named.
        """
        if args and not args[0].startswith("-") and args[0] not in self.verbs:
            near = difflib.get_close_matches(args[0], self.verbs, n=1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"No such command {args[0]!r}.{meant}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs."""
        with formatter.section("Commands"):
            formatter.write_dl([(verb, self.verbs[verb][2]) for verb in self.list_commands(ctx)])
