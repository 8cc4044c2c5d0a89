"""Lists of referrers, which several may write."""

import json
import threading

import pytest

from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.manifest import OCI_MANIFEST, Descriptor
from vnfsbuild.registry.answer import RegistryError

from .registries import (
    REPOSITORY,
    digest_of,
    sends,
)


def entry(number):
    data = json.dumps({"schemaVersion": 2, "number": number}).encode()
    return (Descriptor(OCI_MANIFEST, digest_of(data), len(data)), "application/x.toy", {})


def listed(registry, subject):
    data, _ = registry.manifests[REPOSITORY, subject.replace(":", "-")]
    return {item["digest"] for item in json.loads(data)["manifests"]}


@pytest.mark.parametrize("etags", [False, True])
def test_several_that_list_referrers_at_once_lose_none(registry, etags):
    registry.etags = etags
    subject = digest_of(b"subject")
    entries = [entry(number) for number in range(6)]
    failures = []

    def work(item):
        try:
            registry.repository(settle_seconds=0.2).list_by_tag(subject, [item])
        except VnfsbuildError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(item,)) for item in entries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert listed(registry, subject) == {item[0].digest for item in entries}


def test_what_others_wrote_into_the_list_stays(registry):
    subject = digest_of(b"subject")
    foreign = {
        "mediaType": "x",
        "digest": "sha512:" + "0" * 128,
        "size": 3,
        "platform": {"os": "x"},
    }
    text = json.dumps({"schemaVersion": 2, "manifests": [foreign], "annotations": {"a": "b"}})
    registry.manifests[REPOSITORY, subject.replace(":", "-")] = (text.encode(), "x")
    registry.repository().list_by_tag(subject, [entry(1)])
    data, _ = registry.manifests[REPOSITORY, subject.replace(":", "-")]
    document = json.loads(data)
    assert document["manifests"][0] == foreign
    assert document["annotations"] == {"a": "b"}
    assert len(document["manifests"]) == 2


def test_a_list_that_others_overwrite_for_ever_is_told(registry):
    def twist(request):
        if request.command == "PUT":
            request.body()
            request.answer(201)
            return True
        return False

    registry.twist = twist
    with pytest.raises(RegistryError, match="again and again"):
        registry.repository().list_by_tag(digest_of(b"subject"), [entry(1)])


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b'{"manifests": {}}', b'{"manifests": 3}', b"<html>", b"[" * 100_000]
)
def test_a_list_that_is_none(registry, text):
    subject = digest_of(b"subject")
    registry.manifests[REPOSITORY, subject.replace(":", "-")] = (text, "x")
    with pytest.raises(VerificationError):
        registry.repository().list_referrers(subject)


def test_pages_that_lead_elsewhere_or_never_end(registry):
    subject = digest_of(b"subject")
    body = b'{"manifests": []}'
    link = {"Link": '<http://127.0.0.1:1/v2/x>; rel="next"'}
    registry.twist = sends(body, Content_Type="application/json", **link)
    with pytest.raises(VerificationError, match="goes on elsewhere"):
        registry.repository().list_referrers(subject)
    registry.twist = sends(body, Content_Type="application/json", Link="</again>; rel=next")
    registry.repository().list_referrers(subject)
    assert len(registry.asked) < 60
