"""The tamper table of trust.json: every text that must not count × everyone who reads one."""

import base64
import contextlib
import json
import re
import shutil
import time

import pytest

from provisiond.agent.node import Node
from provisiond.agent.papers import Papers, render_papers
from provisiond.agent.readyscripts import Outcome
from provisiond.agent.running import Running
from provisiond.agent.system import System
from provisiond.protocol import Answer, Plan, parse_answer, render_answer
from vnfsbuild.digest import digest_of
from vnfsbuild.manifest import MAX_METADATA_BYTES

from . import judges, ways
from .claims import CAPSULES, CLAIMS, DEEP_VALUES, SIGNATURES
from .forge import Forgery
from .trusts import FORBIDS, TRUSTS


@contextlib.contextmanager
def replaced(path, data):
    """Let *path* hold *data* as long as the block runs."""
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


class Verify:
    """``vnfsbuild verify`` on a site with this trust.json."""

    holds = False
    """Whether it holds another trust.json to compare with."""
    verb = judges.VerifyFile

    def of_trust(self, desk, data):
        with replaced(desk.site / "trust.json", data):
            return self.verb(desk).of_file(desk.good)


class Import(Verify):
    """``vnfsbuild import``, likewise."""

    verb = judges.ImportFile


class NewToServer:
    """The node server, whose site was given this trust.json; it holds version 5."""

    holds = True

    def of_trust(self, desk, data):
        try:
            with replaced(desk.site / "trust.json", data), restored(desk.server.world.state.trust):
                verdict = judges.NodeServerImport(desk).of_file(desk.good)
                self.handed_out = desk.server.handed_out_trust()
        finally:
            desk.server.world.parts.catalogue.refresh()
        return verdict


class HeldByServer:
    """The node server, whose own copy was replaced by this; the site's is as it was."""

    holds = False

    def of_trust(self, desk, data):
        with replaced(desk.server.world.state.trust, data):
            return judges.NodeServerImport(desk).of_file(desk.good)


class BroughtByFirmware:
    """A node that was booted with this trust.json in its site.cpio."""

    holds = False

    def of_trust(self, desk, data):
        return judges.Node(desk).boot(trust=data)


class BroughtByAnswer:
    """A node that was told this trust.json in an answer; it holds version 5."""

    holds = True

    def of_trust(self, desk, data):
        return judges.Node(desk).boot(answered=base64.b64encode(data).decode())


class AnswerOf:
    """A server that brings *trust*, or nothing, and else says that all is well."""

    def __init__(self, trust=None):
        self.trust = base64.b64encode(trust).decode() if trust is not None else None

    def checkin(self, checkin, *, timeout_seconds=None):
        plan = Plan(node_id=judges.NODE_ID, name=judges.NODE, action="none", checkin_seconds=60)
        answer = Answer(plan=plan, time=int(time.time()), trust=self.trust)
        return parse_answer(json.loads(render_answer(answer)))


def run_node(directory, client, *, trust, papers):
    """Let the agent of a running capsule check in; return what it says then, and its directory."""
    site = directory / "run/site"
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    (site / "trust.json").write_bytes(trust)
    (site / "capsule.json").write_bytes(papers)
    node = Node(
        node_id=judges.NODE_ID, name=judges.NODE, boot_id="0" * 32, node_key=None, uuid=None,
        hwaddrs=(judges.NODE_ID,), capsule=DIGEST, checkin_seconds=60,
    )  # fmt: skip
    running = Running(
        node, client, run=site.parent, system=System(lambda **_: "running", list),
        tell=lambda line: None, set_clock=lambda seconds: None,
    )  # fmt: skip
    with judges.quick():
        assert running.say(Outcome("", ""))
        return running.checkin(Outcome("", "")), site


def papers_of(forgery):
    """Return what a bootstrap hands on of the capsule."""
    found = {}
    for region, data in forgery.members("toy"):
        found.setdefault(region, []).append(data)
    (manifest,), (config,) = found["manifest"], found["config"]
    return Papers(manifest, config, tuple(found.get("envelope", ())))


GOOD_PAPERS = papers_of(Forgery())
DIGEST = digest_of(GOOD_PAPERS.manifest)


def read_report(checkin):
    """Return the verdict that a running node tells of itself."""
    told = checkin.report["trustRefused"] or checkin.report["untrusted"]
    return judges.Verdict(3 if told else 0, told)


class BootedWith:
    """A node that runs the good capsule, and was booted with this trust.json."""

    holds = False

    def of_trust(self, desk, data):
        checkin, _ = run_node(
            desk.directory, AnswerOf(), trust=data, papers=render_papers(GOOD_PAPERS)
        )
        return read_report(checkin)


class BroughtToRunning:
    """A node that runs the good capsule, and is told this trust.json; it holds version 5."""

    holds = True

    def of_trust(self, desk, data):
        checkin, site = run_node(
            desk.directory, AnswerOf(data), trust=desk.trust, papers=render_papers(GOOD_PAPERS)
        )
        is_taken = not checkin.report["trustRefused"]
        assert (site / "trust.json").read_bytes() == (data if is_taken else desk.trust)
        assert checkin.trust_version == (6 if is_taken and data != desk.trust else 5)
        assert {path.name for path in site.iterdir()} == {"trust.json", "capsule.json"}
        assert is_taken or not checkin.report["untrusted"], "what was held says nothing else"
        return read_report(checkin)


@contextlib.contextmanager
def restored(path):
    """Let *path* be afterwards what it was before."""
    with replaced(path, path.read_bytes()):
        yield


BROUGHT = (BroughtByAnswer, BroughtToRunning)
READERS = (
    Verify, Import, NewToServer, HeldByServer, BroughtByFirmware, BootedWith, *BROUGHT
)  # fmt: skip
name_of = lambda item: getattr(item, "__name__", item)  # noqa: E731
of_readers = pytest.mark.parametrize("reader", READERS, ids=name_of)


def rows():
    """Return (row, reader): who holds none takes the first, for its place vouches for it."""
    for trust, row in TRUSTS.items():
        readers = [reader for reader in READERS if reader.holds or not row.only_when_held]
        if not row.make():  # an answer without a text brings none
            readers = [reader for reader in readers if reader not in BROUGHT]
        yield from ((trust, reader) for reader in readers)


@pytest.mark.parametrize(("trust", "reader"), list(rows()), ids=name_of)
def test_a_trust_that_must_not_count(desk, trust, reader):
    row = TRUSTS[trust]
    data = row.make()
    asked = reader()
    verdict = asked.of_trust(desk, data)
    if reader is NewToServer:
        assert asked.handed_out == desk.trust, "nodes would get it"
        if len(data) > MAX_METADATA_BYTES:  # not read, as if it were not there: what is held counts
            return
    verdict.is_refusal()
    assert re.search(row.told, verdict.line) or reader is HeldByServer, verdict.line


@pytest.mark.parametrize(
    "reader",
    # The site of who holds it already has an older one, and is refused for that.
    [reader for reader in READERS if reader is not HeldByServer],
    ids=name_of,
)
@pytest.mark.parametrize("trust", FORBIDS)
def test_a_trust_that_forbids(desk, trust, reader):
    row = FORBIDS[trust]
    verdict = reader().of_trust(desk, row.make()).is_refusal(3)
    assert re.search(row.told, verdict.line), verdict.line


@of_readers
def test_the_good_trust_counts(desk, reader):
    assert reader().of_trust(desk, desk.trust).status == 0


# --- what a running node was told of the capsule that it runs -------------------------------------

OF_PAPERS = {
    claim: row
    for claim, row in {**SIGNATURES, **CAPSULES, **DEEP_VALUES}.items()
    # Of indexes and payloads it was told nothing; and of what holds, the form is nobody's concern.
    if row.on_node and row.forgery.announced_type is None and not row.is_late
    if row.forgery.announced_name is None
    if claim not in ("65 signatures", "two keys in one envelope")
}


@pytest.mark.parametrize("claim", OF_PAPERS)
def test_papers_that_claim(desk, claim):
    papers = render_papers(papers_of(CLAIMS[claim].forgery))
    checkin, _ = run_node(desk.directory, AnswerOf(), trust=desk.trust, papers=papers)
    read_report(checkin).is_refusal(3)


@pytest.mark.parametrize("way", ways.JSON_WAYS)
def test_papers_in_another_form(desk, way):
    """Refused; or read, and then it is what they say that is judged: nobody signed their form."""
    papers = ways.JSON_WAYS[way](render_papers(GOOD_PAPERS))
    checkin, _ = run_node(desk.directory, AnswerOf(), trust=desk.trust, papers=papers)
    verdict = read_report(checkin)
    if verdict.status:
        verdict.is_refusal(3)
    else:
        value = json.loads(papers)
        assert base64.b64decode(value["manifest"]) == GOOD_PAPERS.manifest


@pytest.mark.parametrize("way", ways.BYTE_WAYS, ids=name_of)
def test_papers_with_other_bytes(desk, way):
    good = render_papers(GOOD_PAPERS)
    papers = way(good, 0, len(good))
    checkin, _ = run_node(desk.directory, AnswerOf(), trust=desk.trust, papers=papers)
    read_report(checkin).is_refusal(3)
