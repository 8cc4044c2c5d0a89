"""Capsules into a registry and out of it, also out of one that lies."""

import contextlib
import json
import threading

import pytest

from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.manifest import SIGNATURE, Descriptor, parse_manifest, render_index
from vnfsbuild.packageset import MEDIA_TYPE as PACKAGES
from vnfsbuild.reference import CURRENT, Reference
from vnfsbuild.referrers.attachment import (
    SBOM,
    attachment_entry,
    make_attachment,
    make_carried,
    render_attachment,
)
from vnfsbuild.registry.name import RegistryReference
from vnfsbuild.registry.pull import Terms, pull
from vnfsbuild.registry.push import choose_tags, push
from vnfsbuild.store.store import Store

from .registries import digest_of, running_registry


@pytest.fixture
def registry():
    with running_registry() as running:
        yield running


@pytest.fixture
def site(registry, tmp_path, workshop):
    """Another machine, with a store of its own, that pulls."""

    class Site:
        store = Store(tmp_path / "other")
        incoming = tmp_path / "cache/incoming"
        trust = workshop.trust("dev")

        def pull(self, tag=None, digest=None, name="vnfs/toy", **words):
            types = frozenset(words.pop("types", ()))
            terms = Terms(trust=self.trust, now=workshop.now, **words)
            wanted = RegistryReference(host=registry.host, repository=name, tag=tag, digest=digest)
            return pull(
                registry.repository(name),
                wanted,
                self.store,
                incoming=self.incoming,
                terms=terms,
                types=types,
            )

        def listed(self):
            return [(item.name, item.digest) for item in self.store.list_capsules()]

    return Site()


def send(registry, store, toy, *, tag=None, name="vnfs/toy", **words):
    capsule = store.get(Reference(toy.head.name, digest=toy.digest))
    wanted = RegistryReference(host=registry.host, repository=name, tag=tag)
    return push(
        registry.repository(name), capsule, store, tags=choose_tags(capsule, wanted), **words
    )


@pytest.fixture
def toy(workshop, store):
    made = workshop.capsule(signers=("dev", "second"))
    made.add_to(store)
    return made


@pytest.mark.parametrize("api", [False, True])
def test_there_and_back(registry, store, site, toy, api):
    registry.referrers_api = api
    pushed = send(registry, store, toy)
    assert pushed.tags == ("1", "current")
    assert pushed.by_tag is not api
    assert (("vnfs/toy", toy.digest.replace(":", "-")) in registry.manifests) is not api
    for tag in (None, "1", "current"):
        assert site.pull(tag).capsule.digest == toy.digest
    found = site.store.get(Reference("toy"))
    assert found.envelopes == store.get(Reference("toy")).envelopes
    assert len(found.envelopes) == 2
    assert (
        site.store.verify(Reference("toy"), trust=site.trust, now=site_now()).digest == toy.digest
    )
    assert not list(site.incoming.iterdir())


def site_now():
    from ..conftest import NOW

    return NOW


def test_what_is_there_is_neither_sent_nor_fetched_again(registry, store, site, toy):
    assert send(registry, store, toy).sent_bytes > 0
    registry.asked.clear()
    assert send(registry, store, toy).sent_bytes == 0
    assert not registry.requests("POST")
    assert site.pull().fetched.fetched_bytes == sum(map(len, toy.blobs.values()))
    registry.asked.clear()
    assert site.pull().fetched.fetched_bytes == 0
    payloads = [blob.digest for blob in parse_manifest(toy.manifest).payloads]
    assert not [path for path in registry.requests("GET") if path[-71:] in payloads]


def test_tags_come_last_and_signatures_before_them(registry, store, toy):
    send(registry, store, toy)
    puts = [path.rpartition("/")[2] for path in registry.requests("PUT", "/manifests/")]
    assert puts[0] == toy.digest
    assert puts[-2:] == ["1", "current"]
    assert puts[-3] == toy.digest.replace(":", "-")


def test_signatures_of_two_places_come_together(registry, store, site, toy, workshop, tmp_path):
    """The build host signs and pushes; the release host signs the same, knowing nothing of it."""
    alone = workshop.capsule(signers=("dev",))
    other = workshop.capsule(signers=("third",))
    assert alone.digest == other.digest
    stores = [Store(tmp_path / name) for name in ("a", "b")]
    failures = []

    def work(place, made):
        try:
            made.add_to(place)
            send(registry, place, made)
        except VnfsbuildError as error:
            failures.append(error)

    pairs = zip(stores, (alone, other), strict=True)
    threads = [threading.Thread(target=work, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert site.pull().capsule.signers == tuple(
        sorted(workshop.key(name).key_id for name in ("dev", "third"))
    )


def test_a_damaged_blob_is_never_sent(registry, store, toy):
    blob = parse_manifest(toy.manifest).layers[-1]
    store.blob_path(blob.digest).write_bytes(b"mOdules")
    with pytest.raises(VerificationError, match="damaged or missing"):
        send(registry, store, toy)
    assert not registry.requests("PUT", "/manifests/")
    assert ("vnfs/toy", blob.digest) not in registry.blobs
    store.blob_path(blob.digest).unlink()
    with pytest.raises(VerificationError, match="damaged or missing"):
        send(registry, store, toy)


def test_which_tags_a_capsule_gets(store, toy, workshop):
    capsule = store.get(Reference("toy"))

    def choose(text, tag=None, digest=None):
        words = {"host": "reg", "repository": text, "tag": tag, "digest": digest}
        return choose_tags(capsule, RegistryReference(**words))

    assert choose("a/toy") == ("1", CURRENT)
    assert choose("toy", "1") == ("1",)
    assert choose("toy", "stable") == ("1", "stable")
    for words in (("toy", "2"), ("a/other",), ("toy", None, toy.digest)):
        with pytest.raises(InputError):
            choose(*words)


def test_a_serial_is_given_once(registry, store, toy, workshop):
    send(registry, store, toy)
    again = workshop.capsule(payloads=[b"s", b"k", b"i", b"r", b"m"])
    again.add_to(store)
    with pytest.raises(InputError, match=r":1: is another capsule there"):
        send(registry, store, again)
    assert registry.manifests["vnfs/toy", "1"][0] == toy.manifest
    send(registry, store, again, replace=True)
    assert registry.manifests["vnfs/toy", "1"][0] == again.manifest


def test_a_base_s_layers_are_mounted_and_not_sent(registry, store, toy, workshop):
    send(registry, store, toy)
    child = workshop.capsule(name="child")
    child.add_to(store)
    pushed = send(registry, store, child, name="vnfs/child")
    assert pushed.sent_bytes < 3000
    assert "mount=" in registry.requests("POST")[-1] or registry.requests("POST", "mount=")


def test_package_sets_travel_when_asked_for(registry, store, site, toy, workshop):
    blob = store.add_blob(b"all packages", media_type=PACKAGES)
    store.attach(Reference("toy"), blob, artifact_type=PACKAGES)
    send(registry, store, toy, types=lambda kind: kind != PACKAGES)
    assert ("vnfs/toy", blob.digest) not in registry.blobs
    send(registry, store, toy)
    assert site.pull().capsule.attached(PACKAGES) is None
    pulled = site.pull(types=(PACKAGES,)).capsule
    assert pulled.attached(PACKAGES) == blob
    assert site.store.holds(blob)
    assert not list(site.incoming.iterdir())


def test_a_bootstrap_travels_too(registry, store, site, workshop):
    made = workshop.capsule(bootstrap=True)
    made.add_to(store)
    send(registry, store, made, name="bootstrap")
    assert site.pull(name="bootstrap").capsule.digest == made.digest


def test_no_promote_leaves_current(registry, store, site, toy, workshop):
    send(registry, store, toy)
    site.pull(promote=False)
    with pytest.raises(InputError):
        site.store.get(Reference("toy"))
    assert site.store.get(Reference("toy", "1")).digest == toy.digest


# What a registry may do to us. In each case the store is as it was.


def refused(site, registry, error, words, **wanted):
    before = site.listed()
    registry.asked.clear()
    with pytest.raises(error, match=words) as caught:
        site.pull(**wanted)
    assert site.listed() == before
    assert (
        not (site.store.path / "blobs/sha256").is_dir()
        or before
        or not list((site.store.path / "blobs/sha256").iterdir())
    )
    assert caught.value.message.isprintable()
    return caught.value


def payload_requests(registry, toy):
    payloads = {blob.digest for blob in parse_manifest(toy.manifest).payloads}
    return [path for path in registry.requests("GET", "/blobs/") if path[-71:] in payloads]


@pytest.mark.parametrize("signers", [(), ("stranger",)])
def test_unsigned_is_refused_before_any_payload(registry, site, workshop, signers):
    toy = workshop.capsule(signers=signers)
    registry.add(toy)
    error = refused(site, registry, VerificationError, "sign")
    assert payload_requests(registry, toy) == []
    assert bool(signers) is not ("sha256-" in (error.hint or ""))


def test_too_old_a_serial_or_too_few_signatures(registry, site, workshop):
    toy = workshop.capsule()
    registry.add(toy)
    site.trust = workshop.trust("dev", least_serial=2)
    refused(site, registry, VerificationError, "found serial 1, expected at least 2")
    site.trust = workshop.trust("dev", "second", threshold=2)
    refused(site, registry, VerificationError, "expected 2 of the 2")
    assert payload_requests(registry, toy) == []


def test_another_capsule_for_the_tag(registry, site, workshop):
    other = workshop.capsule(name="other")
    registry.add(other)
    error = refused(site, registry, VerificationError, "called 'other'")
    assert payload_requests(registry, other) == []
    assert error.hint.endswith(f"oci://{registry.host}/vnfs/toy@{other.digest}")
    assert site.pull(digest=other.digest).capsule.name == "other", "by digest it is what was meant"
    newer = workshop.capsule(serial=2)
    registry.add(newer)
    refused(site, registry, VerificationError, "found serial 2, expected 1", tag="1")


def digest_lie(registry, toy, digest):
    """Let the registry answer with *toy* to a question for *digest*."""
    registry.manifests["vnfs/toy", digest] = (toy.manifest, "x")


def test_another_manifest_for_a_digest(registry, site, workshop):
    toy = workshop.capsule()
    registry.add(toy)
    digest_lie(registry, toy, digest_of(b"x"))
    refused(site, registry, VerificationError, "found digest", digest=digest_of(b"x"))


def test_a_registry_that_was_set_back(registry, site, workshop):
    old, new = workshop.capsule(), workshop.capsule(serial=5)
    registry.add(old, tags=("1",))
    registry.add(new, tags=("5", "current"))
    site.pull()
    registry.add(old, tags=("current",))
    error = refused(site, registry, VerificationError, "found serial 1.*has 5")
    assert "--allow-older" in error.hint
    assert site.store.get(Reference("toy")).digest == new.digest
    assert site.pull("1").capsule.digest == old.digest, "asked for by its serial"
    site.pull("5")
    assert site.pull(allow_older=True).capsule.digest == old.digest


LIES = {
    "other bytes": lambda data: (200, b"X" + data[1:], {}),
    "truncated": lambda data: (200, data[:-1], {}),
    "nothing": lambda data: (200, b"", {}),
    "more": lambda data: (200, data + b"more", {}),
    "a page for people": lambda data: (200, b"<html>please log in</html>", {}),
    "another range": lambda data: (206, data, {"Content_Range": "bytes 5-9/10"}),
    "an error": lambda data: (500, b"", {}),
    "gone": lambda data: (404, b"", {}),
    "moved in a circle": lambda data: (302, b"", {"Location": "?"}),
}


@pytest.mark.parametrize("what", ["payload", "config", "envelope", "manifest"])
@pytest.mark.parametrize("lie", LIES)
def test_lies(registry, site, workshop, what, lie):
    toy = workshop.capsule()
    registry.add(toy)
    digest = {
        "payload": parse_manifest(toy.manifest).layers[-1].digest,
        "config": digest_of(toy.config),
        "envelope": digest_of(toy.envelopes[0]),
        "manifest": toy.digest,
    }[what]

    def twist(request):
        if not request.path.partition("?")[0].endswith(digest):
            return False
        held = registry.blobs.get(("vnfs/toy", digest)) or toy.manifest
        status, data, headers = LIES[lie](held)
        request.answer(status, data, **headers)
        return True

    registry.twist = twist
    words = {"digest": toy.digest} if what == "manifest" else {}
    if (what, lie) == ("manifest", "another range"):
        return  # 206 is no answer to a question for a manifest, and the bytes are right
    refused(site, registry, VnfsbuildError, None, **words)
    registry.twist = None
    assert site.pull().capsule.digest == toy.digest, "and with an honest one it goes on"


def test_an_endless_payload(registry, site, workshop):
    toy = workshop.capsule()
    registry.add(toy)
    digest = parse_manifest(toy.manifest).layers[-1].digest

    def twist(request):
        if not request.path.endswith(digest):
            return False
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        with contextlib.suppress(OSError):
            while True:
                request.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        request.close_connection = True
        return True

    registry.twist = twist
    refused(site, registry, VerificationError, "more than")


@pytest.mark.parametrize(
    "manifest",
    [
        b"", b"{", b"[]", b"null", b"{}", b'{"manifests":[]}',
        b'{"config":{},"layers":[],"mediaType":"application/vnd.oci.image.manifest.v1+json"}',
        b'{"artifactType":"application/vnd.vnfs.capsule.v1"}',
        b'{"artifactType":"application/vnd.example+type"}',
        b"[" * 200_000,
    ],
)  # fmt: skip
def test_what_is_no_capsule(registry, site, manifest):
    registry.manifests["vnfs/toy", "current"] = (manifest, "x")
    refused(site, registry, VerificationError, None)


def test_absurd_sizes_in_a_manifest(registry, site, workshop):
    toy = workshop.capsule()
    registry.add(toy)
    document = json.loads(toy.manifest)
    document["config"]["size"] = 10**15
    data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    registry.manifests["vnfs/toy", "current"] = (data, "x")
    refused(site, registry, VerificationError, "expected at most")


def test_nothing_there(registry, site):
    refused(site, registry, InputError, "there is no such capsule")


def add_referrer(registry, toy, item, blob=None):
    """List one more referrer of *toy*, of any bytes."""
    data = item if isinstance(item, bytes) else render_attachment(item)
    tag = toy.digest.replace(":", "-")
    listed = json.loads(registry.manifests["vnfs/toy", tag][0])
    listed["manifests"].append({"mediaType": "application/vnd.oci.image.manifest.v1+json",
                                "digest": digest_of(data), "size": len(data)})  # fmt: skip
    registry.manifests["vnfs/toy", tag] = (json.dumps(listed).encode(), "x")
    registry.manifests["vnfs/toy", digest_of(data)] = (data, "x")
    if blob is not None:
        registry.blobs["vnfs/toy", digest_of(blob)] = blob


def test_rubbish_among_the_signatures_does_no_harm(registry, site, workshop, caplog):
    """Whoever may push to a registry can add referrers: they must not make it unusable."""
    toy = workshop.capsule(signers=("dev", "stranger"))
    registry.add(toy)
    good = toy.envelopes[0]
    forged = json.loads(good)
    forged["signatures"][0]["sig"] = json.loads(toy.envelopes[1])["signatures"][0]["sig"]
    forged = json.dumps(forged, sort_keys=True, separators=(",", ":")).encode()
    for envelope in (forged, b"rubbish", b"{}", workshop.capsule(serial=9).envelopes[0]):
        item = make_carried(toy.manifest, envelope, artifact_type=SIGNATURE)
        add_referrer(registry, toy, item, envelope)
    lost = make_carried(toy.manifest, b"lost", artifact_type=SIGNATURE)
    add_referrer(registry, toy, lost)
    about_another = make_carried(b"{}", good, artifact_type=SIGNATURE)
    add_referrer(registry, toy, about_another)
    for data in (b"{}", b"[]", b'{"subject":{}}', b"\xff"):
        add_referrer(registry, toy, data)
    found = site.pull().capsule
    assert set(found.envelopes) == set(toy.envelopes)
    assert caplog.text.count("left out") >= 8


def test_more_referrers_than_anybody_needs(registry, site, workshop):
    toy = workshop.capsule()
    registry.add(toy)
    entries = [
        attachment_entry(make_carried(toy.manifest, b"%d" % number, artifact_type=SIGNATURE))
        for number in range(300)
    ]
    tag = toy.digest.replace(":", "-")
    registry.manifests["vnfs/toy", tag] = (render_index(entries), "x")
    refused(site, registry, VerificationError, "expected at most 256")
    assert len(registry.asked) < 10


def test_what_others_attached_is_neither_fetched_nor_believed(registry, store, site, toy):
    send(registry, store, toy)
    blob = Descriptor(SBOM, digest_of(b"lies"), 4)
    item = make_attachment(toy.manifest, blob, artifact_type=SBOM)
    add_referrer(registry, toy, item, b"lies")
    found = site.pull().capsule
    assert blob not in [held.blob for held in found.attachments]
    assert not registry.requests("GET", blob.digest)


def test_a_pull_that_was_broken_off_goes_on(registry, store, site, workshop):
    import random

    layer = random.Random(3).randbytes(5_000_000)
    toy = workshop.capsule(payloads=[b"s", b"k", b"i", layer, b"m"])
    toy.add_to(store)
    send(registry, store, toy)
    digest = digest_of(layer)
    broken = []

    def twist(request):
        if not request.path.endswith(digest) or broken:
            return False
        broken.append(1)
        request.send_response(200)
        request.send_header("Content-Length", str(len(layer)))
        request.end_headers()
        request.wfile.write(layer[:3_000_000])
        request.wfile.flush()
        registry.twist = lambda request: request.path.endswith(digest) and (request.cut() or True)
        request.cut()
        return True

    registry.twist = twist
    with pytest.raises(VnfsbuildError):
        site.pull()
    assert site.listed() == []
    registry.twist = None
    assert 1_900_000 <= site.pull().fetched.fetched_bytes <= 2_200_000
    assert site.store.get(Reference("toy")).digest == toy.digest


def test_a_bad_beginning_is_fetched_anew(registry, store, site, toy):
    send(registry, store, toy)
    blob = parse_manifest(toy.manifest).payloads[2]
    site.incoming.mkdir(parents=True)
    (site.incoming / f"{blob.digest[7:]}.whole").write_bytes(b"wrong beginning")
    assert site.pull().capsule.digest == toy.digest
