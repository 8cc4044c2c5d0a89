"""``vnfsbuild doctor``: all that this machine lacks, at once."""

from __future__ import annotations

from dataclasses import asdict

import click

from vnfsbuild.doctor import PURPOSES, examine, missing_packages, render_findings, require
from vnfsbuild.listing import render_document
from vnfsbuild.options import json_option
from vnfsbuild.places import Places


@click.command("doctor")
@click.option(
    "--for", "purposes", type=click.Choice(PURPOSES), multiple=True,
    help="What the machine is to do; may stand several times. Default: everything.",
)  # fmt: skip
@json_option
@click.pass_obj
def command(places: Places, purposes: tuple[str, ...], as_json: bool) -> None:
    """Tell all that this machine lacks to build capsules, serve nodes and run the laboratory.

    The exit status is 1 when something needed is missing.
    """
    findings = examine(places, purposes or PURPOSES)
    if as_json:
        packages = missing_packages(findings)
        document = {"findings": [asdict(item) for item in findings], "install": packages}
        click.echo(render_document(document))
    else:
        click.echo(render_findings(findings))
    require(findings)
