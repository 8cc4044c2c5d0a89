"""What a recipe says of where its packages come from."""

import pytest

from vnfsbuild.errors import InputError
from vnfsbuild.origins import ForeignRepository
from vnfsbuild.packages import fetch_locked, find_missing
from vnfsbuild.recipe import parse_recipe
from vnfsbuild.sources.origin import make_origin, make_urls

from .debs import lock_bytes

LEAST = """
name = "x"
[kernel]
package = "linux-image-amd64"
[distribution]
id = "debian"
release = "trixie"
"""


def parse(text, least=LEAST):
    return parse_recipe(least + text, where="r.toml")


def faults_of(text, least=LEAST):
    with pytest.raises(InputError) as raised:
        parse(text, least)
    return raised.value.message.splitlines()


def test_repositories_of_others_are_read():
    recipe = parse("""
[[repositories]]
id = "site"
url = "https://mirror.example.org/site/"
suites = ["stable"]
components = ["main", "extra"]
key = "keys/site.asc"
[[repositories]]
id = "vendor"
url = "https://mirror.example.org/vendor"
suites = ["x86_64/"]
key = "vendor.gpg"
trust = "metadata"
[[repositories]]
id = "mine"
path = "repository"
key = "mine.asc"
""")
    assert recipe.repositories == (
        ForeignRepository(
            id="site",
            url="https://mirror.example.org/site",
            path=None,
            suites=("stable",),
            components=("main", "extra"),
            key="keys/site.asc",
        ),
        ForeignRepository(
            id="vendor",
            url="https://mirror.example.org/vendor",
            path=None,
            suites=("x86_64/",),
            components=(),
            key="vendor.gpg",
        ),
        ForeignRepository(
            id="mine", path="repository", url=None, suites=("./",), components=(), key="mine.asc"
        ),
    )


def test_all_faults_of_repositories_are_told():
    assert faults_of("""
[[repositories]]
id = "local"
url = "mirror.example.org"
path = "../x"
suites = ["../x"]
key = "/etc/key"
trust = "packages-only"
[[repositories]]
id = "debian-mine"
url = "http://mirror.example.org"
sweets = ["stable"]
[[repositories]]
id = "a"
path = "p"
key = "k"
components = ["main"]
[[repositories]]
id = "a"
path = "p"
key = "k"
""") == [
        "r.toml: repositories[0].id: 'local' is kept for packages of ours or of the distribution",
        "r.toml: repositories[0].url: found 'mirror.example.org', expected http://…, https://… or "
        "file://…",
        "r.toml: repositories[0].url: expected one of url and path",
        "r.toml: repositories[0].path: found '../x', expected a directory beside the recipe",
        "r.toml: repositories[0].suites[0]: found '../x', expected a suite, or a directory ending "
        "in '/'",
        "r.toml: repositories[0].key: found '/etc/key', expected a file beside the recipe: what "
        "the repository is signed by. Unsigned packages go into packages.local",
        "r.toml: repositories[0].trust: packages of Debian's kind carry no signature: their "
        "metadata has to",
        "r.toml: repositories[1].id: 'debian-mine' is kept for packages of ours or of the "
        "distribution",
        "r.toml: repositories[1].suites: missing; for a flat repository: suites = ['./']",
        "r.toml: repositories[1].key: found '', expected a file beside the recipe: what the "
        "repository is signed by. Unsigned packages go into packages.local",
        "r.toml: repositories[1].sweets: unknown key; did you mean 'suites'?",
        "r.toml: repositories[2].components: a flat repository has none",
        "r.toml: repositories[3].id: 'a' stands there twice",
    ]


DATED = "https://snapshot.example.org/archive/debian/{snapshot}"
SNAPSHOT = "snapshot = '20261101T000000Z'\n"


def test_a_snapshot_stands_in_both_mirrors():
    security = DATED.replace("debian", "debian-security")
    found = parse(f"mirror = '{DATED}/'\nsecurity_mirror = '{security}'\n{SNAPSHOT}").distribution
    top = "https://snapshot.example.org/archive"
    assert found.mirror == f"{top}/debian/20261101T000000Z"
    assert found.security_mirror == f"{top}/debian-security/20261101T000000Z"


@pytest.mark.parametrize(
    "mirrors",
    ["", "mirror = 'http://a.example.org'\n", f"security_mirror = '{DATED}'\n"],
)
def test_a_snapshot_that_no_mirror_asks_for_is_refused(mirrors):
    assert faults_of(mirrors + SNAPSHOT) == [
        "r.toml: distribution.snapshot: found '20261101T000000Z', expected distribution.mirror "
        "with {snapshot} in its URL"
    ]


@pytest.mark.parametrize("key", ["mirror", "security_mirror"])
def test_a_mirror_that_asks_for_no_snapshot_in_particular_is_refused(key):
    assert faults_of(f"{key} = '{DATED}'\n") == [
        f"r.toml: distribution.{key}: found '{DATED}', expected distribution.snapshot to say what "
        "{snapshot} stands for"
    ]


@pytest.mark.parametrize("value", ["../x", "a/b", "a b", ".."])
def test_a_snapshot_is_one_part_of_an_url(value):
    assert faults_of(f"mirror = '{DATED}'\nsnapshot = '{value}'\n") == [
        f"r.toml: distribution.snapshot: found {value!r}, expected a snapshot's time, as in "
        "'20261101T000000Z'"
    ]


def test_packages_are_taken_from_the_snapshot(tmp_path, monkeypatch):
    monkeypatch.setattr("vnfsbuild.sources.origin.find_host_archive", lambda _: None)
    monkeypatch.setattr("vnfsbuild.sources.origin.capture_default_archive", lambda *_, **__: None)
    item = lock_bytes(b"x")
    path = tmp_path / "20261101T000000Z" / item.path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    recipe = parse(f"mirror = '{tmp_path.as_uri()}/{{snapshot}}'\n{SNAPSHOT}")
    origin = make_origin(recipe, tmp_path)
    urls = make_urls([item], origin, tools=tmp_path / "tools", environment={})
    assert urls == {item.sha256: (path.as_uri(),)}
    fetch_locked([item], cache=tmp_path / "cache", origin=origin)
    assert not find_missing(tmp_path / "cache", [item])


def test_a_dated_mirror_needs_no_snapshot():
    found = parse("mirror = 'http://a.example.org/20260101/'\nsecurity_mirror = 'file:///s'\n")
    assert found.distribution.mirror == "http://a.example.org/20260101"
    assert found.distribution.security_mirror == "file:///s"


@pytest.mark.parametrize("path", ["../x.deb", "/x.deb", "x.rpm", "debs"])
def test_local_packages_are_debs_beside_the_recipe(path):
    assert faults_of(f"[packages]\nlocal = ['{path}']\n") == [
        f"r.toml: packages.local[0]: found {path!r}, expected *.deb beside the recipe"
    ]


def test_ubuntu_is_a_distribution():
    least = LEAST.replace("debian", "ubuntu").replace("trixie", "noble")
    found = parse("components = ['main', 'universe']\n", least).distribution
    assert (found.id, found.release, found.components) == ("ubuntu", "noble", ("main", "universe"))
