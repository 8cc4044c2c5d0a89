"""The host's own archive, mkosi's default, and where locked packages may be had."""

import pytest

from vnfsbuild.errors import InputError
from vnfsbuild.origins import Distribution
from vnfsbuild.sources import mirror
from vnfsbuild.sources.control import parse_stanzas, sha256_of, split_stanzas
from vnfsbuild.sources.mirror import (
    Source,
    choose_archive,
    choose_default,
    find_archive,
    find_host_archive,
    find_proxies,
    load_host_sources,
    parse_deb822,
    parse_list,
)
from vnfsbuild.sources.origin import Origin, distribution_of, make_urls, vendored_path
from vnfsbuild.sources.repository import Archive, Repository, make_repositories

from .debs import lock_bytes

MAIN = "http://mirror.example.org/debian"
SECURITY = "http://mirror.example.org/debian-security"

LIST = f"""
# a comment
deb [arch=amd64 signed-by=/x.gpg] {MAIN}/ bookworm main contrib # and one here
deb-src {MAIN} bookworm main
deb {SECURITY} bookworm-security main
deb http://other.example.org/tool stable tool
"""

DEB822 = f"""
Types: deb deb-src
# http://elsewhere.example.org
URIs: {MAIN}
Suites: trixie
 trixie-updates
Components: main

Enabled: no
Types: deb
URIs: http://off.example.org/debian
Suites: trixie
Components: main

Types: deb
URIs: {SECURITY}/
Suites: trixie-security
Components: main
"""


@pytest.mark.parametrize("sources", [parse_list(LIST), parse_deb822(DEB822)])
def test_the_archive_is_found_in_both_styles(sources):
    assert choose_archive(sources) == Archive(main=MAIN, security=SECURITY)


def test_other_peoples_repositories_are_no_archive():
    assert choose_archive(parse_list("deb http://other.example.org/x stable tool\n")) is None
    ubuntu = Source(uris=(MAIN,), suites=("noble",), components=("main",))
    assert choose_archive([ubuntu]) is None


def test_files_that_apt_would_pass_over_are_passed_over(tmp_path):
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (parts / "a.list.disabled").write_text("deb http://off.example.org/debian trixie main\n")
    (parts / "b.sources").write_text(DEB822)
    assert choose_archive(load_host_sources(tmp_path)) == Archive(main=MAIN, security=SECURITY)


def test_a_file_of_mirrors_is_followed(tmp_path):
    mirrors = tmp_path / "mirrors.list"
    mirrors.write_text(f"# fast ones\n{MAIN}\tpriority:1\n")
    (tmp_path / "sources.list").write_text(f"deb mirror+file:{mirrors} trixie main\n")
    found = choose_archive(load_host_sources(tmp_path))
    assert found is not None
    assert found.main == MAIN


NAMED = {"VNFS_MIRROR": "http://b.example.org/debian/", "VNFS_SECURITY_MIRROR": "none"}


def test_a_named_mirror_stands_above_the_hosts():
    found = find_archive(release="trixie", mirror="http://a.example.org/debian", environment=NAMED)
    assert found == Archive(main="http://a.example.org/debian")
    assert find_archive(release="trixie", environment=NAMED) == Archive(
        main="http://b.example.org/debian"
    )


def test_the_variables_mean_debian_alone(monkeypatch):
    monkeypatch.setattr(mirror, "find_host_archive", lambda _: None)
    monkeypatch.setattr(mirror, "capture_default_archive", lambda *_, **__: None)
    with pytest.raises(InputError, match="no archive of ubuntu"):
        find_archive("ubuntu", release="noble", environment=NAMED)
    found = find_archive("ubuntu", release="noble", mirror=MAIN, environment=NAMED)
    assert found == Archive(main=MAIN, security=MAIN, distribution="ubuntu")


def test_nobody_naming_a_mirror_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(mirror, "find_host_archive", lambda _: None)
    monkeypatch.setattr(mirror, "capture_default_archive", lambda *_, **__: None)
    with pytest.raises(InputError) as raised:
        find_archive(release="trixie", environment={})
    assert "VNFS_MIRROR" in (raised.value.hint or "")


def test_mkosi_is_asked_where_the_host_says_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(mirror, "find_host_archive", lambda _: None)
    package = tmp_path / "usr/lib/python3/dist-packages/mkosi"
    (package / "distributions").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "config.py").write_text("class Architecture:\n    x86_64 = 1\n")
    (package / "distributions/__init__.py").write_text("")
    (package / "distributions/debian.py").write_text(
        "from types import SimpleNamespace as S\n"
        "class Installer:\n"
        "    @classmethod\n"
        "    def repositories(cls, context):\n"
        "        assert context.config.mirror is None\n"
        f"        yield S(url={MAIN!r}, suite=context.config.release)\n"
        f"        yield S(url={MAIN!r}, suite=context.config.release + '-debug')\n"
        f"        yield S(url={SECURITY!r}, suite=context.config.release + '-security')\n"
    )
    found = find_archive(release="trixie", roots=[tmp_path], environment={})
    assert found == Archive(main=MAIN, security=SECURITY)


def test_a_default_without_the_release_is_none():
    assert choose_default([(MAIN, "sid")], "debian", "trixie") is None


def test_ubuntu_is_believed_on_ubuntu_only(tmp_path):
    (tmp_path / "etc/apt").mkdir(parents=True)
    (tmp_path / "etc/apt/sources.list").write_text(
        f"deb {MAIN} noble main\ndeb {SECURITY} noble-security main\n"
    )
    (tmp_path / "etc/os-release").write_text('NAME="Debian"\nID=debian\n')
    assert find_host_archive("ubuntu", root=tmp_path) is None
    (tmp_path / "etc/os-release").write_text("ID=ubuntu\n")
    assert find_host_archive("ubuntu", root=tmp_path) == Archive(
        main=MAIN, security=SECURITY, distribution="ubuntu"
    )


def test_suites_belong_together():
    found = make_repositories(Archive(main=MAIN, security=SECURITY), "trixie", ("main",))
    assert [(item.id, item.metadata_url) for item in found] == [
        ("debian-trixie", f"{MAIN}/dists/trixie"),
        ("debian-trixie-updates", f"{MAIN}/dists/trixie-updates"),
        ("debian-trixie-security", f"{SECURITY}/dists/trixie-security"),
    ]
    assert len(make_repositories(Archive(main=MAIN), "sid", ("main",))) == 1


@pytest.mark.parametrize(
    ("suite", "url"),
    [("./", MAIN), ("/", MAIN), ("x86/", f"{MAIN}/x86"), ("./a/b/", f"{MAIN}/a/b")],
)
def test_a_flat_repository_is_a_directory(suite, url):
    assert Repository(id="x", uri=MAIN, suite=suite).metadata_url == url


def test_proxies_come_from_apts_settings():
    settings = [
        'Acquire::http::Proxy "http://proxy.example.org:3128/";',
        'Acquire::https::Proxy "DIRECT";',
        'Acquire::Check-Valid-Until "false";',
    ]
    assert find_proxies(settings) == {"http": "http://proxy.example.org:3128/"}


def test_stanzas_keep_continued_lines():
    assert list(parse_stanzas("A: 1\n b\nC: 2\n\n\nA: 3\n")) == [
        {"a": "1\nb", "c": "2"},
        {"a": "3"},
    ]


def test_stanzas_are_told_apart_by_digest():
    text = f"Package: a\nSHA256: {'1' * 64}\n\nSHA256: {'2' * 64}\nPackage: b\n\nPackage: c\n\n"
    assert [sha256_of(stanza) for stanza in split_stanzas(text)] == ["1" * 64, "2" * 64, ""]


@pytest.mark.parametrize(
    ("repository", "distribution"),
    [
        ("debian-trixie", "debian"),
        ("ubuntu-noble-security", "ubuntu"),
        ("debian", None),
        ("local", None),
        ("site", None),
    ],
)
def test_repositories_of_the_distribution_are_known_by_their_id(repository, distribution):
    assert distribution_of(repository) == distribution


def urls_of(item, origin=None, environment=None, *, tmp_path):
    found = make_urls([item], origin or Origin(), tools=tmp_path, environment=environment or {})
    return list(found[item.sha256])


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setattr(
        "vnfsbuild.sources.origin.find_host_archive",
        lambda _: Archive(main="http://host.example.org/d", security="http://host.example.org/s"),
    )


def test_all_mirrors_are_asked_the_named_ones_first(host, tmp_path):
    named = Distribution(
        id="debian",
        release="trixie",
        architecture="x86_64",
        components=("main",),
        mirror=MAIN,
        security_mirror=None,
    )
    origin = Origin(distribution=named, mirrors=("file:///vendored",))
    environment = {"VNFS_MIRROR": "http://b.example.org/debian/", "VNFS_SECURITY_MIRROR": "none"}
    assert urls_of(lock_bytes(b"x"), origin, environment, tmp_path=tmp_path) == [
        "file:///vendored/pool/hello.deb",
        "http://b.example.org/debian/pool/hello.deb",
        f"{MAIN}/pool/hello.deb",
        "http://host.example.org/d/pool/hello.deb",
    ]


def test_security_updates_are_asked_for_where_they_are(host, tmp_path):
    item = lock_bytes(b"x", repository="debian-trixie-security")
    assert urls_of(item, tmp_path=tmp_path) == [
        "http://host.example.org/s/pool/hello.deb",
        "http://host.example.org/d/pool/hello.deb",
    ]


def test_packages_of_others_have_a_place_of_their_own_in_a_vendored_repository(host, tmp_path):
    item = lock_bytes(b"x", repository="site")
    origin = Origin(foreign=(("site", SECURITY), ("other", MAIN)), mirrors=(MAIN,))
    assert vendored_path(item) == "site/pool/hello.deb"
    assert urls_of(item, origin, tmp_path=tmp_path) == [
        f"{MAIN}/site/pool/hello.deb",
        f"{SECURITY}/pool/hello.deb",
    ]


def test_packages_beside_the_recipe_are_taken_from_there(host, tmp_path):
    item = lock_bytes(b"x", repository="local")
    found = urls_of(item, Origin(directory=tmp_path / "my recipe"), tmp_path=tmp_path)
    assert found == [f"file://{tmp_path}/my%20recipe/pool/hello.deb"]
