"""What the verbs that speak with a registry share: options."""

from __future__ import annotations

from pathlib import Path

import click

plain_http_option = click.option(
    "--plain-http", is_flag=True, help="The registry has no TLS: speak HTTP with it."
)
ca_file_option = click.option(
    "--ca-file",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Believe the authorities in FILE (PEM) too, besides those of the system.",
)
