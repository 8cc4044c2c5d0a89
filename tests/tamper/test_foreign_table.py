"""The table again, for capsules in archives that other programs wrote: an OCI layout, or a tar of
one. Its form is nobody's concern, so a row ends in one of two ways: it is refused and the store is
as it was; or what nobody signs was left out, and what came in is what the site's keys signed.
"""

import contextlib
import io
import os
import re
import shutil
import tarfile
import threading

import pytest

from vnfsbuild import ustar
from vnfsbuild.digest import digest_of
from vnfsbuild.reference import parse_reference
from vnfsbuild.signing.keys import load_trust
from vnfsbuild.store.store import Store

from . import judges, ways
from .claims import CLAIMS
from .forge import CONFIG, DOCUMENTS, REGIONS, WORKSHOP, Forgery, archive

GOOD = Forgery()
DIGEST = digest_of(dict(GOOD.members("toy"))["manifest"])
LEFT_OUT = ("provenance manifest", "provenance")
"""Regions that may be damaged or gone, for nobody needs them."""


CORE = ("index", "manifest", "envelope", "kernel")


def of_regions(regions):
    """Return the parameters: what goes by the same way as one of the core is for long runs."""
    return [
        region if region in CORE else pytest.param(region, marks=pytest.mark.long)
        for region in regions
    ]


@pytest.fixture(scope="module")
def other(desk, tmp_path_factory):
    """A store with another capsule, so that there is something to be harmed."""
    directory = tmp_path_factory.mktemp("other")
    (directory / "o.vnfs").write_bytes(Forgery(config={**CONFIG, "name": "other"}).file())
    line = judges.CommandLine(directory / "store", desk.site)
    assert line.run("import", directory / "o.vnfs").status == 0
    return directory / "store"


class Importer:
    """``vnfsbuild import oci:…``, to a store with another capsule."""

    def __init__(self, desk, other, directory):
        self.desk, self.other, self.directory = desk, other, directory

    def of(self, source):
        """Import; return the verdict, and have made sure of the store."""
        store = self.directory / "s"
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(self.other, store)
        before = judges.snapshot(store)
        with judges.payloads_taken() as taken:
            verdict = judges.CommandLine(store, self.desk.site).run("import", source)
        if verdict.status:
            assert judges.snapshot(store) == before, "the store is not as it was"
        else:
            trust = load_trust(self.desk.site, now=WORKSHOP.now)
            found = Store(store).verify(parse_reference("toy"), trust=trust, now=WORKSHOP.now)
            assert found.digest == DIGEST, "another capsule than was signed"
        return judges.Verdict(verdict.status, verdict.line, verdict.told, tuple(taken))

    def of_directory(self, forgery):
        shutil.rmtree(self.directory / "layout", ignore_errors=True)
        forgery.lay_out(self.directory / "layout")
        return self.of(f"oci:{self.directory}/layout")

    def of_bytes(self, data):
        path = self.directory / "layout.tar"
        path.write_bytes(data)
        return self.of(f"oci-archive:{path}")


@pytest.fixture
def importer(desk, other, tmp_path):
    return Importer(desk, other, tmp_path)


def members_of(forgery, directory):
    """Return name, bytes of the files of the layout, as any program would pack them."""
    shutil.rmtree(directory, ignore_errors=True)
    forgery.lay_out(directory)
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return [(str(path.relative_to(directory)), path.read_bytes()) for path in paths]


def both_ways(importer, forgery):
    """Return the verdicts on the directory and on its archive."""
    packed = archive(members_of(forgery, importer.directory / "packed"))
    return importer.of_directory(forgery), importer.of_bytes(packed)


def test_the_good_one_is_taken(importer):
    for verdict in both_ways(importer, GOOD):
        assert verdict.status == 0


OF_LAYOUTS = {
    claim: row
    for claim, row in CLAIMS.items()
    # What an index says of type and name is not asked: the manifest does, and that is signed.
    if row.forgery.announced_type is None and row.forgery.announced_name is None
}


@pytest.mark.parametrize("claim", OF_LAYOUTS)
def test_a_layout_that_claims(importer, claim):
    row = CLAIMS[claim]
    for verdict in both_ways(importer, row.forgery):
        if verdict.status:
            verdict.is_refusal()
            assert row.is_late or not verdict.taken, "a payload was used before the verdict"


@pytest.mark.parametrize("way", ways.JSON_WAYS)
@pytest.mark.parametrize("document", of_regions(DOCUMENTS))
def test_documents_in_another_form(importer, document, way):
    for verdict in both_ways(importer, Forgery(edits={document: ways.JSON_WAYS[way]})):
        if verdict.status:
            verdict.is_refusal()
            assert not verdict.taken, "a payload was used before the verdict"


@pytest.mark.parametrize("way", ways.FILE_WAYS)
@pytest.mark.parametrize("region", of_regions(REGIONS))
def test_files_of_a_layout(importer, region, way):
    paths = GOOD.lay_out(importer.directory / "layout")
    ways.FILE_WAYS[way](paths[region], paths["source" if region != "source" else "kernel"])
    verdict = importer.of(f"oci:{importer.directory}/layout")
    # The layout's own version says nothing that we would need.
    if verdict.status or region not in (*LEFT_OUT, "layout", "empty blob", "referrers index"):
        verdict.is_refusal()


# --- archives -------------------------------------------------------------------------------------

DEADLY = ("path", "symbolic link", "hard link", "device", "FIFO", "sparse")
"""What no program of good will writes: all of the archive is refused for it."""


@pytest.mark.parametrize("way", ways.HEADER_WAYS)
@pytest.mark.parametrize("region", of_regions(REGIONS))
def test_headers_of_an_archive(importer, region, way):
    name, data = next((name, data) for found, name, data in GOOD.file_members() if found == region)
    members = [item for item in members_of(GOOD, importer.directory / "p") if item[0] != name]
    header = ways.HEADER_WAYS[way](ustar.render_header(name, len(data)))
    packed = header + data + ustar.padding(len(data)) + archive(members)
    verdict = importer.of_bytes(packed)
    if verdict.status or any(word in way for word in DEADLY):
        verdict.is_refusal()


def packed_by_tarfile(importer, change, *, form=tarfile.PAX_FORMAT):
    """Return the archive as Python packs it; *change* is given each member."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as file:
        for name, data in members_of(GOOD, importer.directory / "p"):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            change(member)
            file.addfile(member, io.BytesIO(data))
    return out.getvalue()


def with_pax(**headers):
    """Return the change that gives the index these pax headers."""

    def change(member):
        if member.name == "index.json":
            member.pax_headers = {key.replace("__", "."): text for key, text in headers.items()}

    return change


PAX = {
    "path with ..": with_pax(path="../../../etc/cron.d/owned"),
    "absolute path": with_pax(path="/etc/cron.d/owned"),
    "path with a NUL": with_pax(path="index.json\0/x"),
    "size -1": with_pax(size="-1"),
    "size 2^63": with_pax(size=str(2**63)),
    "size of 5000 digits": with_pax(size="9" * 5000),
    "size that is no number": with_pax(size="nan"),
    "time that is no number": with_pax(mtime="nan"),
    "time beyond all floats": with_pax(mtime="1e999"),
    "sparse": with_pax(GNU__sparse__major="1", GNU__sparse__minor="0", GNU__sparse__name="x"),
    "sparse map": with_pax(GNU__sparse__map="0,1,9223372036854775807,1"),
    "sparse, of a size": with_pax(GNU__sparse__size=str(2**62), GNU__sparse__numblocks="1"),
    "a million characters": with_pax(comment="x" * 10**6),
    "name that drives terminals": with_pax(path="../\x1b[2J\n"),
}


@pytest.mark.parametrize("way", PAX)
def test_pax_headers_of_an_archive(importer, way):
    verdict = importer.of_bytes(packed_by_tarfile(importer, PAX[way]))
    if verdict.status or "path" in way or "sparse" in way:
        verdict.is_refusal()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_each_form_are_taken(importer, form):
    def note_owner(member):
        member.uid, member.uname, member.mtime, member.mode = 1000, "builder", 1.5e9, 0o600

    assert importer.of_bytes(packed_by_tarfile(importer, note_owner, form=form)).status == 0


@pytest.mark.parametrize("way", ways.BYTE_WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("region", of_regions(REGIONS))
def test_bytes_of_an_archive(importer, region, way):
    wanted = next(name for found, name, _ in GOOD.file_members() if found == region)
    members = members_of(GOOD, importer.directory / "p")
    start = 0
    for name, data in members:
        if name == wanted:
            break
        start += 512 + len(data) + len(ustar.padding(len(data)))
    verdict = importer.of_bytes(way(archive(members), start + 512, start + 512 + len(data)))
    if verdict.status or region not in (*LEFT_OUT, "layout", "empty blob", "referrers index"):
        verdict.is_refusal()


@pytest.mark.parametrize(
    "way", [way for way in ways.HEADER_WAYS if any(word in way for word in DEADLY)]
)
def test_a_stranger_that_no_program_of_good_will_writes(importer, way):
    header = ways.HEADER_WAYS[way](ustar.render_header("README", 0))
    importer.of_bytes(header + archive(members_of(GOOD, importer.directory / "p"))).is_refusal()


@pytest.mark.parametrize("target", ["a", "b/c", "..", "/etc/passwd"])
def test_a_stranger_that_is_a_link(importer, target):
    """Although nothing of it is unpacked: whoever looks at it with another program will."""
    member = tarfile.TarInfo("README")
    member.type, member.linkname = tarfile.SYMTYPE, target
    packed = member.tobuf() + archive(members_of(GOOD, importer.directory / "p"))
    assert "README" in importer.of_bytes(packed).is_refusal().line


def test_an_archive_in_a_pipe_is_refused_or_taken(importer):
    """It cannot be read twice; that is told, and nobody waits for ever."""
    pipe = importer.directory / "pipe"
    os.mkfifo(pipe)
    data = archive(members_of(GOOD, importer.directory / "p"))

    def write():
        with pipe.open("wb") as file, contextlib.suppress(BrokenPipeError):
            file.write(data)

    thread = threading.Thread(target=write)
    thread.start()
    verdict = importer.of(f"oci-archive:{pipe}")
    thread.join(20)
    assert not thread.is_alive()
    if verdict.status:
        assert re.search("pipe|file|tar", verdict.is_refusal(1, 2, 3).line)
