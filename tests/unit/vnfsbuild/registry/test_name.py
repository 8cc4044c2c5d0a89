import pytest

from vnfsbuild.errors import InputError
from vnfsbuild.registry.name import RegistryReference, parse_registry_reference

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "host", "repository", "tag", "digest"),
    [
        ("oci://reg.example.org/toy", "reg.example.org", "toy", None, None),
        ("oci://reg:5000/site/toy:7", "reg:5000", "site/toy", "7", None),
        ("oci://[::1]:5000/a/b/toy-x_y", "[::1]:5000", "a/b/toy-x_y", None, None),
        (f"oci://reg/toy@sha256:{HEX}", "reg", "toy", None, f"sha256:{HEX}"),
        (f"oci://reg/toy:9@sha256:{HEX}", "reg", "toy", "9", f"sha256:{HEX}"),
    ],
)
def test_references(text, host, repository, tag, digest):
    found = parse_registry_reference(text)
    assert found == RegistryReference(host=host, repository=repository, tag=tag, digest=digest)
    assert str(found) == text


def test_what_is_asked_for():
    assert parse_registry_reference("oci://reg/a/toy").wanted == "current"
    assert parse_registry_reference("oci://reg/a/toy").name == "toy"
    assert parse_registry_reference("oci://reg/toy:9").wanted == "9"
    assert parse_registry_reference(f"oci://reg/toy:9@sha256:{HEX}").wanted == f"sha256:{HEX}"


@pytest.mark.parametrize(
    "text",
    [
        "reg/toy", "docker://reg/toy", "oci://", "oci://reg", "oci://reg/", "oci:///toy",
        "oci://reg/Toy", "oci://reg/a//b", "oci://reg/toy:", "oci://reg/toy:a b", "oci://reg/../toy",
        "oci://reg/toy@sha256:12", "oci://reg/toy@", "oci://reg:port/toy", "oci://re g/toy",
        "oci://reg/toy?x=1", "oci://reg\n/toy", "oci://reg/toy\n", "oci://-reg/toy",
        f"oci://reg/{'a' * 300}",
    ],
)  # fmt: skip
def test_what_is_no_reference(text):
    with pytest.raises(InputError):
        parse_registry_reference(text)


def test_a_password_in_a_reference_is_not_repeated():
    with pytest.raises(InputError) as caught:
        parse_registry_reference("oci://me:hunter2@reg.example.org/toy")
    assert "hunter2" not in str(caught.value) + str(caught.value.hint)
    assert "podman login reg.example.org" in caught.value.hint
