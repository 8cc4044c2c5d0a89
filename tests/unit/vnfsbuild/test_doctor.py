"""The doctor tells everything at once, with the package that has it."""

import pytest

from vnfsbuild.doctor import (
    Finding,
    examine,
    missing_packages,
    parse_available_memory,
    render_findings,
    require,
)
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.places import Places


def finding(what, ok, package=None):
    return Finding(purpose="build", what=what, ok=ok, detail="…", package=package)


def test_nothing_is_demanded_where_nothing_is_missing():
    require([finding("apt-get", True, "apt")])


def test_all_that_is_missing_is_told_with_what_installs_it():
    findings = [
        finding("dnsmasq", False, "dnsmasq-base"),
        finding("memory", False),
        finding("dnsmasq", False, "dnsmasq-base"),
        finding("apt-get", True, "apt"),
        finding("ip", False, "iproute2"),
    ]
    assert missing_packages(findings) == ["dnsmasq-base", "iproute2"]
    with pytest.raises(VnfsbuildError, match=r"lacks dnsmasq, memory, ip$") as caught:
        require(findings)
    assert caught.value.hint == "apt-get install dnsmasq-base iproute2"
    assert caught.value.exit_status == 1


def test_faults_are_marked():
    assert render_findings([finding("ip", False), finding("sh", True)]) == (
        "FOR             WHAT  FOUND\nbuild  MISSING  ip    …\nbuild  ok       sh    …"
    )


def test_every_probe_answers_on_this_machine(tmp_path):
    places = Places(
        store=tmp_path / "a/b", cache=tmp_path / "c", site=tmp_path / "d", share=tmp_path
    )
    found = examine(places, ("lab", "build", "serve"))
    assert list(dict.fromkeys(item.purpose for item in found)) == ["build", "serve", "lab"]
    assert all(item.detail for item in found)
    assert {item.purpose for item in examine(places, ("serve",))} == {"serve"}
    assert not (tmp_path / "a").exists()


def test_a_missing_program_names_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr("vnfsbuild.doctor.PROGRAMS", {"serve": ("newgidmap-none", "dnsmasq-none")})
    monkeypatch.setattr(
        "vnfsbuild.doctor.PACKAGES", {"newgidmap-none": "uidmap", "dnsmasq-none": "dnsmasq-base"}
    )
    places = Places(store=tmp_path, cache=tmp_path, site=tmp_path, share=tmp_path)
    bad = [
        item for item in examine(places, ("serve",)) if item.package in ("uidmap", "dnsmasq-base")
    ]
    assert [item.detail for item in bad] == [
        "not found; in the package uidmap",
        "not found; in the package dnsmasq-base",
    ]


def test_available_memory_is_read():
    assert parse_available_memory("MemTotal: 9 kB\nMemAvailable:   2048 kB\n") == 2048 * 1024
    assert parse_available_memory("MemTotal: 9 kB\n") == 0
