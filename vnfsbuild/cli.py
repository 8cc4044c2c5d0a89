"""The command line: which verbs there are, and how an error becomes words and an exit status."""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from vnfsbuild import __version__
from vnfsbuild.errors import VnfsbuildError, render_error
from vnfsbuild.listing import printable
from vnfsbuild.places import find_places
from vnfsbuild.verbs import Verbs

logger = logging.getLogger(__name__)

INTERRUPTED = 130

VERBS = {
    "bootstrap": ("bootstrap", "Build the bootstrap OS, which nodes run before their capsule."),
    "build": ("build", "Build the capsule of RECIPE, sign it, and add it to the store."),
    "cache": ("cache", "Show and trim what came out of stages, kept for the next build."),
    "cat": ("cat", "Write the content of a file of a capsule."),
    "delete": ("delete", "Delete capsules that nobody needs any more."),
    "diff": ("diff", "Show what changed from one capsule to another."),
    "doctor": ("doctor", "Tell all that this machine lacks."),
    "export": ("export", "Write a capsule of the store to a file."),
    "fetch": ("fetch", "Bring the packages of RECIPE's lock into the cache."),
    "files": ("files", "List the files of a capsule as a node will see them."),
    "fsck": ("fsck", "Read all of the store; tell, and mend, what is wrong."),
    "gc": ("gc", "Remove from the store what nothing names."),
    "import": ("import_", "Verify the capsule in a file and add it to the store."),
    "keys": ("keys", "Make, list, pass on and revoke the keys that sign capsules."),
    "list": ("list", "List the capsules of the store."),
    "lock": ("lock", "Write the lock of RECIPE: which packages it means, exactly."),
    "mount": ("mount", "Mount a capsule read-only, to look at it."),
    "pins": ("pins", "List and change what must not be deleted."),
    "promote": ("promote", "Let the bare NAME mean this capsule."),
    "pull": ("pull", "Fetch a capsule from a registry and add it to the store."),
    "push": ("push", "Send a capsule of the store to a registry."),
    "reproduce": ("reproduce", "Build a capsule again from the source in it, and compare."),
    "rollback": ("rollback", "Let the bare NAME mean what it meant before."),
    "sbom": ("sbom", "Print the bill of materials of a capsule."),
    "show": ("show", "Show what a capsule consists of and who signed it."),
    "sign": ("sign", "Sign a capsule, perhaps after building it again."),
    "tag": ("tag", "Give a capsule a name of your own."),
    "trust": ("trust", "Say whose signatures make which capsules trusted."),
    "umount": ("umount", "Undo what mount did."),
    "vendor": ("vendor", "Write a repository of exactly what RECIPE's lock names."),
    "verify": ("verify", "Verify every byte of a capsule, and who signed it."),
}
"""Verb → its module in commands/, and its line in ``--help``."""

WORLD_ERRORS = {
    errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO,
    errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR,
    errno.ELOOP,
}  # fmt: skip
"""What the system may refuse at any time: told in words, for it is no bug of ours."""


class OurVerbs(Verbs):
    """What vnfsbuild does."""

    verbs: Mapping[str, tuple[str, str, str]] = {
        verb: (f"vnfsbuild.commands.{module}", "command", line)
        for verb, (module, line) in VERBS.items()
    }


@click.command("vnfsbuild", cls=OurVerbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Tell every program that is run, and its output.")
@click.option("--store", type=click.Path(path_type=Path), help="The store; also VNFS_STORE.")
@click.option("--site", type=click.Path(path_type=Path), help="keys/, trust.json; also VNFS_SITE.")
@click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path),
    help="Holds the passphrase of a key; also VNFS_PASSPHRASE_FILE.",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def main(
    ctx: click.Context,
    debug: bool,
    store: Path | None,
    site: Path | None,
    passphrase_file: Path | None,
) -> None:
    """Build reproducible, signed VNFS capsules for clusters of stateless nodes."""
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO, format="%(message)s", stream=sys.stderr
    )
    # It warns, when loaded, of something that we do not use.
    logging.getLogger("libarchive").setLevel(logging.ERROR)
    if passphrase_file is not None:
        # Where the one module that reads passphrases looks.
        os.environ["VNFS_PASSPHRASE_FILE"] = str(passphrase_file.absolute())
    places = find_places()
    ctx.obj = dataclasses.replace(
        places,
        store=(store or places.store).absolute(),
        cache=places.cache.absolute(),
        site=(site or places.site).absolute(),
    )


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line *arguments*; return the exit status."""
    try:
        given = sys.argv[1:] if arguments is None else arguments
        with main.make_context("vnfsbuild", list(given)) as context:
            main.invoke(context)
        sys.stdout.flush()
    except VnfsbuildError as error:
        logger.debug("%s", "".join(traceback.format_exception(error)))
        click.echo(printable(render_error(error)), err=True)
        return error.exit_status
    except click.exceptions.Exit as end:
        return end.exit_code
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
    except OSError as error:
        return _report_refused(error)
    except Exception:  # noqa: BLE001 - the last edge: anything else is a bug, and is told so
        return _report_bug()
    return 0


def _report_refused(error: OSError) -> int:
    if error.errno not in WORLD_ERRORS:
        return _report_bug()
    logger.debug("%s", "".join(traceback.format_exception(error)))
    where = f"{error.filename}: " if error.filename else ""
    click.echo(printable(f"error: {where}{error.strerror}"), err=True)
    return 1


def _report_bug() -> int:
    click.echo(traceback.format_exc(), err=True, nl=False)
    click.echo(f"this is a bug in vnfsbuild {__version__}, please report it", err=True)
    return 1
