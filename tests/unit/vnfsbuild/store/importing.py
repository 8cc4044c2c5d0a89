"""What tests of the store share."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]


def snapshot(store):
    """Return path → content of everything in the store but locks."""
    return {
        str(path.relative_to(store.path)): path.read_bytes()
        for path in sorted(store.path.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def import_file(store, path, workshop, **words):
    trust = words.pop("trust", None) or workshop.trust()
    return store.import_file(path, trust=trust, now=workshop.now, **words)
