"""The command line: what is printed where, and with which exit status."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from vnfsbuild import cli
from vnfsbuild.commands import bootstrap, keys
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.places import Places, find_recipe
from vnfsbuild.signing.keys import find_signing_key, sign_manifest
from vnfsbuild.store.store import Store

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def toy(places, run, workshop):
    """A capsule in the store, signed by a key of the site."""
    run("keys", "new", "dev")
    toy = workshop.capsule(signers=())
    toy.envelopes = (sign_manifest(toy.manifest, find_signing_key(places.site, None)),)
    toy.add_to(Store(places.store))
    return toy


def start(*arguments, **words):
    return subprocess.Popen(
        [sys.executable, "-m", "vnfsbuild", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=words.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        **words,
    )


def all_commands(command=None, path=()):
    """Return (words, command) for every verb, those of groups among them."""
    command = command or cli.main
    if not isinstance(command, click.Group):
        return [(path, command)]
    context = click.Context(command)
    return [
        found
        for name in command.list_commands(context)
        for found in all_commands(command.get_command(context, name), (*path, name))
    ]


def test_help_names_every_verb_and_loads_none(run):
    status, out, _ = run("--help")
    assert status == 0
    for verb, (_, line) in cli.VERBS.items():
        assert re.search(rf"^  {verb} +{re.escape(line)}$", out, re.MULTILINE)
    code = "import sys; from vnfsbuild import cli; cli.run(['--help']); print(*sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    loaded = subprocess.run(
        [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"cryptography", "tqdm", "vnfsbuild.store.store", "aiohttp"} & set(loaded)


def test_every_verb_is_documented_with_its_options():
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    for words, command in all_commands():
        title = " ".join(("vnfsbuild", *words))
        section = re.search(rf"^## `{title}\b.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        assert section, f"docs/cli.md: no section for {title}"
        for parameter in command.params:
            for option in (
                getattr(parameter, "opts", []) if parameter.param_type_name == "option" else []
            ):
                assert f"`{option}" in section[0], f"docs/cli.md: {title}: {option}"


def test_every_module_of_a_verb_has_its_command():
    modules = {path.stem for path in (ROOT / "vnfsbuild/commands").glob("*.py")} - {"__init__"}
    assert {module for module, _ in cli.VERBS.values()} == modules
    assert [words for words, _ in all_commands() if words[0] in ("keys", "bootstrap")] == [
        ("bootstrap", "build"),
        ("bootstrap", "show"),
        ("keys", "export"),
        ("keys", "list"),
        ("keys", "new"),
        ("keys", "revoke"),
    ]
    assert bootstrap.command.name == "bootstrap"
    assert keys.command.name == "keys"


def test_the_version_is_told(run):
    assert run("--version") == (0, "vnfsbuild 0.1.0\n", "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["lst"], "No such command 'lst'. Did you mean 'list'?"),
        (["improt", "x"], "No such command 'improt'. Did you mean 'import'?"),
        (["xyzzy"], "No such command 'xyzzy'.\n"),
        (["show"], "Missing argument 'REFERENCE'"),
        (["show", "a", "b"], "unexpected extra argument"),
        (["list", "--jsn"], "No such option"),
        (["doctor", "--for", "tea"], "'tea' is not one of"),
        (["keys", "nwe"], "No such command 'nwe'"),
    ],
)
def test_a_command_line_that_means_nothing_is_told_with_status_2(run, arguments, told):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert told in err


def test_keys_are_made_and_listed(run, places):
    status, out, err = run("keys", "new", "dev")
    assert status == 0
    assert out.startswith(f"{places.site}/keys/dev.pem: key ")
    assert "dev may sign every capsule" in out
    status, out, err = run("keys", "new", "ops", "--json")
    made = json.loads(out)
    assert (made["name"], made["trustedFor"], made["madeTrust"]) == ("ops", [], False)
    status, out, err = run("keys", "new", "qa")
    assert "not trusted yet: trust.json (version 1) does not name it" in err
    status, out, err = run("keys", "list", "--json")
    assert [(key["name"], key["root"], key["trustedFor"]) for key in json.loads(out)] == [
        ("dev", False, ["*"]), ("ops", False, []), ("qa", False, []), ("root", True, []),
    ]  # fmt: skip
    status, out, err = run("keys", "list")
    rows = [line.split() for line in out.splitlines()]
    assert [row[0] for row in rows] == ["NAME", "dev", "ops", "qa", "root"]
    assert [row[2] for row in rows[1:]] == ["*", "-", "-", "trust.json"]
    status, out, err = run("keys", "new", "dev")
    assert (status, out) == (2, "")
    assert "error: " in err
    assert "hint: " in err


def test_an_empty_store_lists_nothing(run):
    assert run("list") == (0, "NAME  SERIAL  TAGS  DIGEST  SIZE  SIGNED-BY  KERNEL\n", "")
    assert run("list", "--json") == (0, "[]\n", "")


def test_capsules_are_listed(run, places, toy, workshop):
    workshop.capsule(name="unsigned", signers=()).add_to(Store(places.store))
    workshop.capsule(name="foreign", signers=("stranger",)).add_to(
        Store(places.store), current=False
    )
    status, out, err = run("list")
    assert (status, err) == (0, "")
    rows = [re.split(r"  +", line) for line in out.splitlines()]
    assert rows[1][0] == "foreign"
    assert rows[1][2] == "-"
    assert rows[1][5] == f"{workshop.key('stranger').key_id[:12]} (not trusted)"
    assert rows[2] == ["toy", "1", "current", toy.digest[7:19], rows[2][4], "dev", "6.12.0"]
    assert rows[3][5] == "-"
    status, out, err = run("list", "--json")
    facts = {item["name"]: item for item in json.loads(out)}
    assert facts["toy"]["trusted"] is True
    assert facts["toy"]["tags"] == ["1", "current"]
    assert facts["toy"]["signatures"][0]["name"] == "dev"
    assert facts["unsigned"]["trusted"] is False
    assert "not signed" in facts["unsigned"]["reason"]


def test_a_capsule_is_shown(run, toy):
    status, out, _ = run("show", "toy")
    assert status == 0
    for line in (
        f"digest:       {toy.digest}",
        "tags:         1, current",
        "epoch:        1700000000 (2023-11-14 22:13:20 UTC)",
        "arguments:    quiet",
        "trusted:      yes",
    ):
        assert line in out.splitlines()
    assert re.search(r"^signed by: +dev \([0-9a-f]{64}\)$", out, re.MULTILINE)
    roles = [line.split("  ")[0] for line in out.partition("\n\n")[2].splitlines()]
    assert roles == ["PAYLOAD", "source", "kernel", "initrd", "layer rootfs", "layer modules"]
    status, out, _ = run("show", f"toy@{toy.digest}", "--json")
    assert [item["role"] for item in json.loads(out)["payloads"]][-1] == "layer modules"


def test_what_is_not_there_is_told_with_status_2(run, places):
    for verb in ("show", "export", "verify"):
        run("keys", "new", "dev")
        status, out, err = run(verb, "toy")
        assert (status, out) == (2, "")
        assert (
            f"error: toy: no such capsule in the store {places.store}\nhint: vnfsbuild list" in err
        )


def test_a_capsule_goes_out_and_in(run, places, toy, tmp_path):
    status, out, err = run("export", "toy")
    assert (status, out) == (0, "toy.vnfs\n")
    assert "export toy.vnfs: " in err
    assert run("export", "toy:1", tmp_path / "two.vnfs")[0] == 0
    assert (tmp_path / "toy.vnfs").read_bytes() == (tmp_path / "two.vnfs").read_bytes()
    status, out, err = run("--store", tmp_path / "other", "import", "toy.vnfs")
    assert (status, out) == (0, f"toy:1@{toy.digest}\n")
    status, out, err = run("--store", tmp_path / "third", "import", "--no-promote", "toy.vnfs")
    assert status == 0
    assert Store(tmp_path / "third").list_capsules()[0].tags == ("1",)


def test_a_capsule_is_verified_as_file_and_in_the_store(run, places, toy, workshop):
    run("export", "toy")
    for what in ("toy.vnfs", "./toy.vnfs", "toy", f"toy:1@{toy.digest}"):
        status, out, _ = run("verify", what)
        assert (status, out) == (0, f"toy:1@{toy.digest}: verified, signed by dev\n")
    status, out, _ = run("verify", "toy.vnfs", "--json")
    assert json.loads(out)["verified"] is True


def test_what_does_not_hold_is_told_with_status_3(run, places, toy, workshop, tmp_path):
    run("export", "toy")
    data = bytearray((tmp_path / "toy.vnfs").read_bytes())
    data[-2000] ^= 1
    (tmp_path / "bad.vnfs").write_bytes(data)
    workshop.capsule(signers=()).write(tmp_path / "unsigned.vnfs")
    for verb in ("verify", "import"):
        for name, told in (("bad", "bad.vnfs"), ("unsigned", "not signed")):
            status, out, err = run(verb, f"{name}.vnfs")
            assert (status, out) == (3, "")
            assert "error: " in err
            assert told in err
    assert len(Store(places.store).list_capsules()) == 1


def test_without_trust_nothing_is_imported(run, workshop, tmp_path):
    workshop.capsule().write(tmp_path / "toy.vnfs")
    status, out, err = run("import", "toy.vnfs")
    assert (status, out) == (2, "")
    assert "no such file, so no key is trusted" in err
    assert "hint: vnfsbuild keys new NAME" in err


def test_listing_goes_on_when_trust_has_expired(run, places, toy, workshop):
    (places.site / "trust.json").write_bytes(workshop.signed_trust(workshop.trust(expires=1)))
    status, out, err = run("list", "--json")
    assert status == 0
    assert "version 1 has expired" in err
    assert json.loads(out)[0]["reason"] == "there is no valid trust.json"
    assert run("verify", "toy")[0] == 3


def test_doctor_speaks_json(run):
    status, out, _ = run("doctor", "--for", "serve", "--json")
    document = json.loads(out)
    assert status == (0 if all(item["ok"] for item in document["findings"]) else 1)
    assert {item["purpose"] for item in document["findings"]} == {"serve"}


def test_a_recipe_is_a_directory_or_a_name(places, tmp_path, run):
    share = Places(store=tmp_path, cache=tmp_path, site=tmp_path, share=tmp_path / "share")
    for directory in ("here", "recipes/mine", "share/recipes/mine", "share/recipes/theirs"):
        (tmp_path / directory).mkdir(parents=True)
        (tmp_path / directory / "recipe.toml").touch()
    assert find_recipe("here", share) == tmp_path / "here"
    assert find_recipe("./here", share) == tmp_path / "here"
    assert find_recipe("mine", share) == tmp_path / "recipes/mine"
    assert find_recipe("theirs", share) == tmp_path / "share/recipes/theirs"
    status, out, err = run("build", "none")
    assert (status, out) == (2, "")
    assert "error: none: no recipe here" in err


def broken(error):
    def fail(self):
        raise error

    return fail


def test_a_bug_is_told_as_one(run, monkeypatch):
    monkeypatch.setattr(Store, "list_capsules", broken(ZeroDivisionError("oops")))
    status, out, err = run("list")
    assert (status, out) == (1, "")
    assert "Traceback" in err
    assert err.endswith("this is a bug in vnfsbuild 0.1.0, please report it\n")


def test_what_the_system_refuses_is_no_bug(run, monkeypatch):
    error = OSError(28, "No space left on device", "/store/x")
    monkeypatch.setattr(Store, "list_capsules", broken(error))
    assert run("list") == (1, "", "error: /store/x: No space left on device\n")


def test_an_error_is_told_in_words_and_with_debug_where_it_came_from(run, monkeypatch):
    monkeypatch.setattr(Store, "list_capsules", broken(VnfsbuildError("it failed", hint="try")))
    assert run("list") == (1, "", "error: it failed\nhint: try\n")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_ends_with_its_status_and_leaves_nothing(
    toy, places, tmp_path, number, status
):
    os.mkfifo(tmp_path / "slow.vnfs")
    with start("import", "slow.vnfs") as child:
        incoming = places.store / ".incoming"
        with (tmp_path / "slow.vnfs").open("wb") as pipe:  # returns once the other end is open
            while not list(incoming.iterdir()):
                time.sleep(0.01)
            child.send_signal(number)
            assert child.wait() == status
            del pipe
        assert "Traceback" not in child.stderr.read()
    assert list(incoming.iterdir()) == []
    assert [found.digest for found in Store(places.store).list_capsules()] == [toy.digest]


def test_a_reader_that_has_enough_is_no_error(toy):
    reader, writer = os.pipe()
    os.close(reader)
    with start("show", "toy", stdout=writer) as child:
        os.close(writer)
        assert child.wait() == 0
        assert child.stderr.read() == ""
