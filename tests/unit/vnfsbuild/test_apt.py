"""The host's own mirror, the private apt's configuration, package files."""

import tarfile
from pathlib import Path

import pytest

from vnfsbuild.digest import digest_of
from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.sources import apt, deb
from vnfsbuild.sources.mirror import (
    Archive,
    Repository,
    Source,
    choose_archive,
    find_archive,
    find_proxies,
    load_host_sources,
    make_repositories,
    parse_deb822,
    parse_list,
    parse_stanzas,
    render_sources,
)

from .debs import link, make_deb, regular

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


def test_a_named_mirror_stands_above_the_hosts():
    named = {"VNFS_MIRROR": "http://b.example.org/debian"}
    assert find_archive("http://a.example.org/debian/", environment=named).main == (
        "http://a.example.org/debian"
    )
    assert find_archive(environment=named).main == "http://b.example.org/debian"


def test_suites_belong_together():
    found = make_repositories(Archive(main=MAIN, security=SECURITY), "trixie", ("main",))
    assert [(item.id, item.uri) for item in found] == [
        ("debian-trixie", MAIN),
        ("debian-trixie-updates", MAIN),
        ("debian-trixie-security", SECURITY),
    ]
    assert len(make_repositories(Archive(main=MAIN), "sid", ("main",))) == 1


def test_sources_are_rendered_with_their_key():
    repository = Repository(
        id="x", uri=MAIN, suite="trixie", components=("main", "contrib"), keyring=Path("/k.gpg")
    )
    assert render_sources([repository]) == (
        f"Types: deb\nURIs: {MAIN}\nSuites: trixie\nComponents: main contrib\nSigned-By: /k.gpg\n"
    )


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


def test_the_private_apt_never_looks_outside():
    conf = apt.render_conf(
        Path("/w"), architecture="amd64", recommends=True, settings=['Acquire::x "y";']
    )
    assert conf.startswith('Dir "/w";\nDir::State::status "/w/status";\n')
    assert 'APT::Install-Recommends "true";' in conf
    assert conf.endswith('Acquire::x "y";\n')


def test_a_stanza_is_a_choice():
    stanza = (
        "Package: a\nVersion: 1:2\nArchitecture: all\nFilename: pool/a.deb\nSize: 7\n"
        f"SHA256: {'0' * 64}\n"
    )
    found = apt.make_choice(stanza, repository="r").package
    assert (found.name, found.version, found.path, found.size_bytes) == (
        "a",
        "1:2",
        "pool/a.deb",
        7,
    )


def test_metadata_is_read_where_apt_keeps_it(tmp_path):
    uri = "http://user:secret@mirror.example.org:8080/a_b/debian"
    repository = Repository(
        id="r", uri=uri, suite="trixie", components=("main",), keyring=Path("/k")
    )
    private = apt.Apt(directory=tmp_path, repositories=(repository,), architecture="amd64")
    lists = tmp_path / "var/lib/apt/lists"
    lists.mkdir(parents=True)
    data = b"Origin: x\nDate: Tue, 14 Nov 2023 22:13:20 UTC\n"
    (lists / "mirror.example.org:8080_a%5fb_debian_dists_trixie_InRelease").write_bytes(data)
    found = apt.load_metadata(private)
    assert found == {"r": apt.Metadata(digest=digest_of(data), epoch=1700000000)}


CONTROL = "Package: hello\nVersion: 1\nArchitecture: all\n"


def test_a_package_is_unpacked_through_the_merged_usr(tmp_path):
    members = [
        (regular("./bin/tool", 0o4755), b"program"),
        (link("./bin/other", "tool"), b""),
        (link("./usr/share/same", "./bin/tool", tarfile.LNKTYPE), b""),
        (link("./lib", "usr/lib"), b""),
        (regular("./etc/conf"), b"text"),
    ]
    package = make_deb(tmp_path / "x.deb", CONTROL, members)
    root = tmp_path / "root"
    deb.link_merged(root)
    deb.unpack(package, root)
    assert (root / "bin").readlink() == Path("usr/bin")
    assert (root / "usr/bin/tool").read_bytes() == b"program"
    assert (root / "usr/bin/tool").stat().st_mode & 0o7777 == 0o755
    assert (root / "usr/bin/tool").stat().st_mtime == 1000
    assert (root / "bin/other").readlink() == Path("tool")
    assert (root / "usr/share/same").samefile(root / "usr/bin/tool")
    assert (root / "etc/conf").read_text() == "text"


def test_a_path_that_leaves_the_tree_is_refused(tmp_path):
    package = make_deb(tmp_path / "x.deb", CONTROL, [(regular("./a/../../x"), b"")])
    with pytest.raises(VnfsbuildError, match="leaves the tree"):
        deb.unpack(package, tmp_path / "root")


def test_what_is_no_package_is_told(tmp_path):
    path = tmp_path / "x.deb"
    path.write_bytes(b"no archive")
    with pytest.raises(VnfsbuildError, match="not a Debian package"):
        deb.unpack(path, tmp_path / "root")


def test_a_stanza_is_made_from_the_package_itself(tmp_path):
    package = make_deb(tmp_path / "x.deb", CONTROL, [])
    digest = digest_of(package.read_bytes())[7:]
    assert deb.make_stanza(package) == (
        f"{CONTROL}Filename: ./x.deb\nSize: {package.stat().st_size}\nSHA256: {digest}\n"
    )


def test_nobody_naming_a_mirror_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr("vnfsbuild.sources.mirror.load_host_sources", list)
    with pytest.raises(InputError) as raised:
        find_archive(environment={})
    assert "VNFS_MIRROR" in (raised.value.hint or "")
