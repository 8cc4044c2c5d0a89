"""Each golden digest has its line in the changelog: users read there that bytes change."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_each_golden_digest_has_a_line_of_its_own_in_the_changelog():
    golden = json.loads((ROOT / "tests/golden/toy.json").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    lines = [entry["changelog"] for entry in golden["history"]]
    for line in lines:
        assert line in changelog, f"CHANGELOG.md: expected the line {line!r}"
    assert len(set(lines)) == len(lines), "a new digest needs a new line"
    digests = [entry["capsule"] for entry in golden["history"]]
    assert len(set(digests)) == len(digests)
