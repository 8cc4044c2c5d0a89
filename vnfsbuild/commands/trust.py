"""``vnfsbuild trust``: whose signatures make which capsules trusted."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import click

from vnfsbuild.dsse import KeyId
from vnfsbuild.errors import InputError
from vnfsbuild.listing import render_document
from vnfsbuild.options import json_option, now
from vnfsbuild.places import Places
from vnfsbuild.signing.keys import list_keys, load_trust
from vnfsbuild.signing.trustfile import (
    Changed,
    change_trust,
    find_keys,
    init_trust,
    load_waiting,
    read_trust,
    sign_trust,
)
from vnfsbuild.signing.trustrules import (
    DAY_SECONDS,
    RuleChange,
    good_for,
    renewed,
    with_rule,
    without_rule,
)
from vnfsbuild.trust import Trust
from vnfsbuild.verdicts import (
    describe_changed,
    describe_trust,
    find_lost,
    render_expiry,
    render_trust_facts,
)

DEFAULT_DAYS = 10 * 365

_days = click.IntRange(min=1, max=100 * 365)
_count = click.IntRange(min=1)
_root = click.option("--root", "roots", multiple=True, metavar="KEY", help="A root key.")
_KEYS = "A key by its name, its .pub file, or its key id."


@click.group("trust")
def command() -> None:
    """Say whose signatures make which capsules trusted."""


@command.command("init")
@_root
@click.option("--root-threshold", type=_count, default=1, help="How many of them must sign.")
@click.option("--days", type=_days, default=DEFAULT_DAYS, help="How long it is good; ten years.")
@click.option("--passphrase", is_flag=True, help="Put a root key that is made under a passphrase.")
@json_option
@click.pass_obj
def init(
    places: Places,
    roots: tuple[str, ...],
    root_threshold: int,
    days: int,
    passphrase: bool,
    as_json: bool,
) -> None:
    """Make the first trust.json of a site, which trusts no capsule yet.

    Without --root the key `root` is its root key, and is made when it is not there.
    """
    changed = init_trust(
        places.site,
        roots,
        threshold=root_threshold,
        expires=now() + days * DAY_SECONDS,
        now=now(),
        under_passphrase=passphrase,
    )
    print_changed(changed, places, told="no capsule is trusted yet", as_json=as_json)


@command.command("allow")
@click.argument("glob")
@click.option("--key", "keys", multiple=True, metavar="KEY", help=_KEYS)
@click.option("--threshold", type=_count, help="How many of the keys must sign; at first 1.")
@click.option("--least-serial", type=click.IntRange(min=0), help="No older capsule may run.")
@click.option("--builder", "builders", multiple=True, metavar="KEY", help="Who may attest too.")
@click.option("--no-builders", is_flag=True, help="Only the keys may attest.")
@click.option("--remove", is_flag=True, help="Drop the rule.")
@json_option
@click.pass_obj
def allow(
    places: Places,
    glob: str,
    keys: tuple[str, ...],
    threshold: int | None,
    least_serial: int | None,
    builders: tuple[str, ...],
    no_builders: bool,
    remove: bool,
    as_json: bool,
) -> None:
    """Set who must sign the capsules whose name matches GLOB.

    What is not given stays as it was; --key and --builder replace all that were named before. The
    first rule that matches a name counts; a new one comes before all that say less.
    """
    if builders and no_builders:
        raise InputError("trust allow: --builder and --no-builders exclude each other")
    if remove:
        if keys or builders or no_builders or (threshold, least_serial) != (None, None):
            raise InputError("trust allow: --remove goes with no other option")
        changed = change_trust(places.site, lambda trust: without_rule(trust, glob), now=now())
        print_changed(changed, places, told=f"{glob}: no rule any more", as_json=as_json)
        return

    def decide(trust: Trust) -> Trust:
        signing = find_keys(places.site, keys, trust)
        attesting = find_keys(places.site, builders, trust)
        change = RuleChange(
            glob=glob,
            keys=tuple(signing) if keys else None,
            threshold=threshold,
            least_serial=least_serial,
            builders=tuple(attesting) if builders or no_builders else None,
        )
        return with_rule(trust, change, {**signing, **attesting})

    print_changed(change_trust(places.site, decide, now=now()), places, as_json=as_json)


@command.command("renew")
@click.option("--days", type=_days, help="How long it is good, from now on.")
@_root
@click.option("--root-threshold", type=_count, help="How many of the root keys must sign.")
@json_option
@click.pass_obj
def renew(
    places: Places,
    days: int | None,
    roots: tuple[str, ...],
    root_threshold: int | None,
    as_json: bool,
) -> None:
    """Let trust.json be good for longer, or name its root keys anew.

    One that has expired can be renewed too. New root keys count once enough of the old and of the
    new ones have signed.
    """
    if days is None and not roots and root_threshold is None:
        raise InputError("trust renew: found nothing to change", hint="--days 365")

    def decide(trust: Trust) -> Trust:
        public = find_keys(places.site, roots, trust)
        changed = renewed(
            trust,
            public,
            root_keys=tuple(public) if roots else None,
            root_threshold=root_threshold,
        )
        return changed if days is None else good_for(changed, days, now=now())

    print_changed(change_trust(places.site, decide, now=now()), places, as_json=as_json)


@command.command("sign")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--yes", is_flag=True, help="Do not ask whether what it says is right.")
@json_option
@click.pass_obj
def sign(places: Places, file: Path | None, yes: bool, as_json: bool) -> None:
    """Sign a trust.json that waits for more root keys, with those that are here.

    Once enough have signed, it becomes the trust.json of this site. FILE is one that another holder
    of a root key has sent; without it, that of this site, trust.next.json. What it says is shown
    first: whoever signs it says so too.
    """

    def admit(trust: Trust) -> None:
        facts = describe_trust(trust, load_names(places.site), now=now())
        click.echo(render_trust_facts(facts, now=now()), err=True)
        if yes:
            return
        if not sys.stdin.isatty():
            raise InputError(
                "trust sign: there is no terminal to ask at whether this is right", hint="--yes"
            )
        click.confirm("Sign this?", abort=True, err=True)

    changed = sign_trust(places.site, file, now=now(), admit=admit)
    print_changed(changed, places, as_json=as_json)


@command.command("show")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@json_option
@click.pass_obj
def show(places: Places, file: Path | None, as_json: bool) -> None:
    """Show what trust.json says: version, expiry, root keys, rules in the order that counts.

    With FILE: what that one says, whoever may have signed it; to be read before it is signed.
    """
    names = load_names(places.site)
    if file is not None:
        trust, signers = read_trust(file)
        facts = {**describe_trust(trust, names, now=now()), "signers": list(signers)}
        told = f"{render_trust_facts(facts, now=now())}\n{_signed(signers, names)}; not verified"
        click.echo(render_document(facts) if as_json else told)
        return
    trust = load_trust(places.site, now=0)
    waiting = load_waiting(places.site)
    facts = describe_trust(trust, names, now=now())
    if as_json:
        facts["waiting"] = None
        if waiting is not None:
            later = describe_trust(waiting[0], names, now=now())
            facts["waiting"] = {**later, "signers": list(waiting[1])}
        click.echo(render_document(facts))
        return
    click.echo(render_trust_facts(facts, now=now()))
    if waiting is not None:
        told = _signed(waiting[1], names)
        click.echo(f"version {waiting[0].version} waits for more signatures; {told}")


def _signed(signers: tuple[KeyId, ...], names: Mapping[KeyId, str]) -> str:
    return f"signed by {', '.join(names.get(keyid, keyid[:12]) for keyid in signers)}"


def load_names(site: Path) -> Mapping[KeyId, str]:
    """Return key id → name of the keys that *site* knows."""
    return {key.key_id: key.name for key in list_keys(site, None)}


def print_changed(
    changed: Changed, places: Places, *, told: str | None = None, as_json: bool
) -> None:
    """Print what a change of trust.json came to, and which capsules may not run any more."""
    names = load_names(places.site)
    lost = (
        find_lost(places.store, changed.before, changed.trust, now=now())
        if changed.before is not None
        else ()
    )
    if as_json:
        click.echo(render_document(describe_changed(changed, lost, names, now=now())))
        return
    version = changed.trust.version
    if changed.before == changed.trust:
        click.echo(f"{changed.path}: version {version}: says so already")
        return
    what = told or render_expiry(changed.trust.expires, now=now())
    click.echo(f"{changed.path}: version {version}: {what}")
    for item in lost:
        click.echo(f"not trusted any more: {item.reason}", err=True)
    if changed.missing:
        click.echo(
            f"{changed.missing} more root key{'' if changed.missing == 1 else 's'} must sign; "
            "until then trust.json stays as it was",
            err=True,
        )
        click.echo(f"hint: vnfsbuild trust sign {changed.path.name}, where these are", err=True)
