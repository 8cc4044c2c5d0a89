"""The tamper table: every region × every way; each row is refused by everyone who is asked.

A row is refused with status 2 or 3 and one line that says where; nothing is left behind, and no
payload was used. :mod:`.ways` has the ways, :mod:`.anatomy` the regions, :mod:`.judges` who is
asked and what "nothing is left behind" means for each, :mod:`.claims` what can be forged although
every digest fits. The same for trust.json: :mod:`.test_trust_table`.
"""

import re

import pytest

from vnfsbuild.digest import digest_of

from . import judges, ways
from .anatomy import ZONES, spans
from .claims import CLAIMS
from .forge import DOCUMENTS, REGIONS, Forgery, archive
from .judges import refused_by

GOOD = Forgery()
OF_FILES = (judges.VerifyFile, judges.ImportFile, judges.NodeServerImport)
"""Who is given a ``.vnfs`` file."""
OF_STORES = (judges.VerifyStored, judges.ExportStored, judges.Node, judges.FreshNode)
"""Who reads a store, or what a node server hands out of it."""
OF_SIGNATURES = (judges.VerifyStored, judges.FreshNode)
"""Those of them who ask who signed: an export goes to somebody who does."""

name_of = lambda item: getattr(item, "__name__", str(item)).replace("_", " ")  # noqa: E731


# --- the file: bytes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "way"),
    # The fields of a header are damaged in more ways as parts of the header.
    [(zone, way) for zone in ZONES for way in (ways.FLIPS if ":" in zone else ways.BYTE_WAYS)],
    ids=name_of,
)
def test_bytes_of_a_file(desk, zone, way):
    data = GOOD.file()
    places = [way(data, start, end) for start, end in spans(GOOD)[zone]]
    for tampered in places:
        if tampered != data:  # as when zeros are made zero
            file = desk.file(tampered)
            refused_by(OF_FILES, lambda judge, file=file: judge(desk).of_file(file))


# --- the file: members ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", ways.HEADER_WAYS)
@pytest.mark.parametrize("region", REGIONS)
def test_a_header_that_is_whole_and_lies(desk, region, way):
    data = GOOD.file()
    start, _ = spans(GOOD)[region][0]
    block = ways.HEADER_WAYS[way](data[start - 512 : start])
    assert len(block) == 512
    file = desk.file(data[: start - 512] + block + data[start:])
    refused_by(OF_FILES, lambda judge: judge(desk).of_file(file))


def swapped_with_next(members, position):
    members[position : position + 2] = reversed(members[position : position + 2])


def dropped(members, position):
    del members[position]


def doubled(members, position):
    members.insert(position, members[position])


def moved_to_the_end(members, position):
    members.append(members.pop(position))


def moved_to_the_front(members, position):
    members.insert(0, members.pop(position))


def preceded_by_a_stranger(members, position):
    members.insert(position, ("README", b"hello"))


def emptied(members, position):
    members[position] = (members[position][0], b"")


def renamed_for_its_content(members, position):
    """The content is another, and the name its digest."""
    name, data = members[position]
    forged = data + b" "
    if name.startswith("blobs/"):
        name = f"blobs/sha256/{digest_of(forged)[7:]}"
    members[position] = (name, forged)


MEMBER_WAYS = (
    swapped_with_next, dropped, doubled, moved_to_the_end, moved_to_the_front,
    preceded_by_a_stranger, emptied, renamed_for_its_content,
)  # fmt: skip


@pytest.mark.parametrize("way", MEMBER_WAYS, ids=name_of)
@pytest.mark.parametrize("region", REGIONS)
def test_members_of_a_file(desk, region, way):
    regions = [found for found, _, _ in GOOD.file_members()]
    good = [(name, data) for _, name, data in GOOD.file_members()]
    members = list(good)
    way(members, regions.index(region))
    if members != good:  # as when the first is moved to the front
        file = desk.file(archive(members))
        refused_by(OF_FILES, lambda judge: judge(desk).of_file(file))


# --- documents whose digests fit ------------------------------------------------------------------


def written_otherwise(document, way):
    return Forgery(edits={document: ways.JSON_WAYS[way]})


@pytest.mark.parametrize("way", ways.JSON_WAYS)
@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_of_a_file_in_another_form(desk, document, way):
    file = desk.file(written_otherwise(document, way).file())
    for verdict in refused_by(OF_FILES, lambda judge: judge(desk).of_file(file)).values():
        assert not verdict.taken, "a payload was used before the verdict"


@pytest.mark.parametrize("way", ways.JSON_WAYS)
@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_of_a_store_in_another_form(desk, tmp_path, document, way):
    store = tmp_path / "store"
    written_otherwise(document, way).lay_out(store)
    asked = [judge for judge in OF_SIGNATURES if document not in judge.spares]
    refused_by(asked, lambda judge: judge(desk).of_store(store))


# --- claims ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_file_that_claims(desk, claim):
    row = CLAIMS[claim]
    file = desk.file(row.forgery.file())
    for verdict in refused_by(OF_FILES, lambda judge: judge(desk).of_file(file)).values():
        assert re.search(row.told, verdict.line), verdict.line
        assert row.is_late or not verdict.taken, "a payload was used before the verdict"


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_store_that_claims(desk, tmp_path, claim):
    row, store = CLAIMS[claim], tmp_path / "store"
    row.forgery.lay_out(store)
    asked = OF_SIGNATURES if row.on_node else (judges.VerifyStored,)
    statuses = (1, 2, 3) if row.is_missing else ()
    refused_by(asked, lambda judge: judge(desk).of_store(store), *statuses)


# --- the store: files -----------------------------------------------------------------------------

BY_THE_SYSTEM = {"symbolic link to itself"}
"""What the system does not open: status 1 is as good."""


@pytest.mark.parametrize("way", ways.FILE_WAYS)
@pytest.mark.parametrize("region", REGIONS)
def test_files_of_a_store(desk, tmp_path, region, way):
    store = tmp_path / "store"
    paths = GOOD.lay_out(store)
    ways.FILE_WAYS[way](paths[region], paths["source" if region != "source" else "kernel"])
    asked = [judge for judge in OF_STORES if region not in judge.spares]
    statuses = (1, 2, 3) if way in BY_THE_SYSTEM else ()
    refused_by(asked, lambda judge: judge(desk).of_store(store), *statuses)


@pytest.mark.parametrize("region", sorted(judges.Node.spares))
def test_a_node_does_without_what_it_does_not_need(desk, tmp_path, region):
    """It boots what was signed all the same, or not at all: the judge sees to that."""
    store = tmp_path / "store"
    paths = GOOD.lay_out(store)
    paths[region].write_bytes(b"tampered")
    assert judges.Node(desk).of_store(store).status == 0
