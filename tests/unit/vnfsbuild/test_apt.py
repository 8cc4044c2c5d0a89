"""What apt is told, and how its answers are read. The real one: tests/integration/test_lock.py."""

from pathlib import Path

from vnfsbuild.sources import apt


def test_the_private_apt_never_looks_outside():
    conf = apt.render_conf(
        Path("/w"), architecture="amd64", recommends=True, settings=['APT::x "y";']
    )
    assert conf.startswith('Dir "/w";\nDir::State::status "/w/status";\n')
    assert 'APT::Install-Recommends "true";' in conf
    assert conf.endswith('APT::x "y";\n')


def test_its_sources_are_directories_of_its_own():
    assert apt.render_sources(2, Path("/w")) == (
        "Types: deb\nURIs: file:///w/0\nSuites: ./\nTrusted: yes\n\n"
        "Types: deb\nURIs: file:///w/1\nSuites: ./\nTrusted: yes\n"
    )


def test_what_is_preferred_is_found_by_its_label():
    plain = apt.Offer(repository="a", packages="", fields={"label": "Debian", "suite": "stable"})
    kept = apt.Offer(repository="b", packages="", priority=990)
    assert apt.render_preferences([plain, kept]) == (
        "Package: *\nPin: release l=vnfs-1\nPin-Priority: 990\n"
    )
    assert apt.render_release(kept, 1, sha256="ab", size_bytes=7) == (
        "Label: vnfs-1\nSHA256:\n ab 7 Packages\n"
    )


def test_what_the_solver_heeds_of_a_release_stays():
    fields = {"notautomatic": "yes", "suite": "trixie-backports", "date": "x", "sha256": "y"}
    offer = apt.Offer(repository="a", packages="", fields=fields)
    assert apt.render_release(offer, 0, sha256="ab", size_bytes=7).startswith(
        "Suite: trixie-backports\nNotautomatic: yes\nSHA256:\n"
    )


def test_a_stanza_is_a_choice():
    stanza = (
        "Package: a\nVersion: 1:2\nArchitecture: all\nFilename: ./pool/a.deb\nSize: 7\n"
        f"SHA256: {'0' * 64}\n"
    )
    found = apt.make_choice(stanza, repository="r").package
    assert (found.name, found.version, found.path, found.size_bytes) == (
        "a",
        "1:2",
        "pool/a.deb",
        7,
    )
