"""Why two capsules are not the same: which payloads, which files, in which way."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from vnfsbuild import tools
from vnfsbuild.compare import CONTENT, Difference, Item, compare_items
from vnfsbuild.contents import WHOLE, extract_file, list_payload
from vnfsbuild.manifest import LAYER_TYPES, ROLES, Descriptor
from vnfsbuild.original import Original

CONFIG = "config"
DIFFOSCOPE = "diffoscope"
MAX_LINES = 60
"""Of diffoscope's words: it has many."""


def payloads_by_role(original: Original) -> dict[str, Descriptor]:
    """Return the payloads of a capsule: ``source``, ``layer rootfs`` and so on → descriptor."""
    names = iter(original.head.capsule.config.layers)
    return {
        f"layer {next(names)}" if kind in LAYER_TYPES else ROLES[kind]: payload
        for payload in original.head.capsule.manifest.payloads
        for kind in [payload.media_type]
    }


def compare_capsules(found: Original, expected: Original, *, tree: Path) -> list[Difference]:
    """Return all that differs between two capsules, in the order of their payloads.

    *tree* is the tools tree "build".

    Raises:
        VnfsbuildError: a payload cannot be looked into.
    """
    differences = compare_items(CONFIG, found=_list_config(found), expected=_list_config(expected))
    now, before = payloads_by_role(found), payloads_by_role(expected)
    for role in [*before, *(role for role in now if role not in before)]:
        if role not in now or role not in before:
            kind = "missing" if role in before else "extra"
            differences.append(Difference(payload=role, path=WHOLE, kind=kind))
        elif now[role].digest != before[role].digest:
            listings = [
                list_payload(capsule.blob_path(payload.digest), payload.media_type, tools=tree)
                for capsule, payload in ((found, now[role]), (expected, before[role]))
            ]
            told = compare_items(role, found=listings[0], expected=listings[1])
            differences += told or [_packed_otherwise(role, now[role], before[role])]
    return differences


def explain_content(
    found: Original,
    expected: Original,
    differences: Iterable[Difference],
    *,
    tree: Path,
    work: Path,
) -> str:
    """Return what diffoscope says of the first file whose content differs.

    Empty when it is not installed, or no file's content differs.

    Raises:
        ToolError: a program failed.
    """
    first = next((item for item in differences if item.kind == CONTENT), None)
    if first is None or first.payload == CONFIG or not tools.is_installed(DIFFOSCOPE):
        return ""
    with tempfile.TemporaryDirectory(dir=work) as name:
        paths = []
        for word, capsule in (("expected", expected), ("found", found)):
            payload = payloads_by_role(capsule)[first.payload]
            paths.append(Path(name, word, Path(first.path).name or first.payload))
            paths[-1].parent.mkdir()
            blob = capsule.blob_path(payload.digest)
            extract_file(blob, payload.media_type, first.path, paths[-1], tools=tree)
        argv = diffoscope_argv([path.relative_to(name) for path in paths])
        # Its exit status is 1 when there are differences, which is what it was asked for.
        text = tools.capture(argv, cwd=Path(name), statuses=(0, 1)).decode("utf-8", "replace")
    return "\n".join(text.splitlines()[:MAX_LINES])


def diffoscope_argv(paths: Sequence[Path]) -> list[str]:
    """Return the argv that tells in text how two files differ."""
    return [DIFFOSCOPE, "--text", "-", "--text-color", "never", "--", *map(str, paths)]


def _list_config(capsule: Original) -> dict[str, Item]:
    config = capsule.head.capsule.config
    names = ("architecture", "distribution", "epoch", "kernel", "layers", "name", "serial")
    return {name: Item(type="value", content=str(getattr(config, name))) for name in names}


def _packed_otherwise(role: str, found: Descriptor, expected: Descriptor) -> Difference:
    """Return the difference of two payloads that hold the same: order, or compression."""
    return Difference(
        payload=role,
        path=WHOLE,
        kind="packing",
        found=f"{found.digest[:19]}, {found.size_bytes} bytes",
        expected=f"{expected.digest[:19]}, {expected.size_bytes} bytes",
    )
