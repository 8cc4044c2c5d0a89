"""The pipelines of docs/ci.md, step by step: what stands there is what is run here.

Not run are the steps that install vnfsbuild. Registry and signer are real ones of this machine: the
registry without TLS, so that ``push`` gets an option more than in the files.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vnfsbuild.places import find_places

from . import toy
from .registries import ensure_programs, running_registry

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs/ci.md"
STAGES = ["lock", "build", "reproduce", "boot", "release"]

WRAPPER = """\
#!/bin/sh
unset PYTHONHOME
[ "$1" != push ] || set -- "$@" --plain-http
exec {python} -B -m {module} "$@" </dev/null
"""
SIGNER = """\
#!/bin/sh
# Signs what comes on standard input; the secret is nowhere below the pipeline's directory.
set -eu
test "$1" = release
test "$OUR_SIGNER_TOKEN" = let-me-in
message=$(mktemp)
trap 'rm -f "$message"' EXIT
cat >"$message"
openssl pkeyutl -sign -rawin -inkey {secret} -in "$message"
"""


def read_pipelines():
    """Return the two files: for each stage of each, the variables and the script."""
    blocks = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    gitlab, github = map(yaml.safe_load, blocks)
    jobs = {
        name: ({**gitlab["variables"], **gitlab[name].get("variables", {})}, gitlab[name]["script"])
        for name in gitlab["stages"]
    }
    steps = {
        step["name"]: ({**github["env"], **step.get("env", {})}, step["run"].strip().splitlines())
        for step in github["jobs"]["capsule"]["steps"]
        if "run" in step and step["name"] != "install"
    }
    return {"gitlab": jobs, "github": steps}


PIPELINES = read_pipelines()


@pytest.mark.integration
def test_both_files_have_the_same_steps_in_the_same_order():
    assert list(PIPELINES["gitlab"]) == list(PIPELINES["github"]) == STAGES
    for stage in STAGES:
        ours, theirs = (PIPELINES[kind][stage][1] for kind in ("gitlab", "github"))
        assert ours == [line for line in theirs if not line.startswith("rm -f")], stage


class Runner:
    """A machine on which a pipeline is run: a checkout, programs, a registry, a signer."""

    def __init__(self, top, registry):
        self.checkout = top / "checkout"
        self.top = top
        self.registry = registry
        self.checkout.mkdir()
        (top / "bin").mkdir()
        for name, module in (("vnfsbuild", "vnfsbuild"), ("provisionctl", "provisiond.ctl")):
            self.write_program(name, WRAPPER.format(python=sys.executable, module=module))
        self.make_signer()

    def write_program(self, name, text):
        path = self.top / "bin" / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def make_signer(self):
        """Make a key that only its program has, and a trust.json that trusts it."""
        secret = self.top / "elsewhere.pem"
        for argv in (
            ["openssl", "genpkey", "-algorithm", "ed25519", "-out", secret],
            ["openssl", "pkey", "-in", secret, "-pubout", "-out", self.top / "release.pub"],
        ):
            subprocess.run(list(map(str, argv)), check=True, capture_output=True)
        self.write_program("our-signer", SIGNER.format(secret=secret))
        site = self.checkout / "site"
        for words in (
            f"keys new release --public {self.top}/release.pub --signer /usr/bin/env"
            " --signer our-signer --signer release",
            "trust init",
            "trust allow * --key release",
        ):
            self.run([f"vnfsbuild --site {site} {words.replace('*', chr(39) + '*' + chr(39))}"], {})
        # The root key is not in the repository.
        (site / "keys/root.pem").unlink()
        for path in (site / "keys/release.signer", site / "keys/release.pub"):
            path.chmod(0o666)  # as GitLab checks files out

    def run(self, script, variables, **more):
        """Run the lines of *script* by sh, as a runner does; return what was printed."""
        known = {
            "CI_PROJECT_DIR": str(self.checkout),
            "CI_PROJECT_PATH": "group/project",
            "CI_REGISTRY": self.registry,
            "CI_REGISTRY_USER": "ci",
            "CI_REGISTRY_PASSWORD": "secret",
            "OUR_SIGNER_TOKEN": "let-me-in",
        }
        values = {**variables, **more}
        for name in variables.keys() - more.keys():
            values[name] = self.expand(variables[name])
        for name, text in values.items():  # a variable may name another
            values[name] = substitute(text, {**known, **values})
        environment = {
            "PATH": f"{self.top}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.top),
            "PYTHONPATH": f"{ROOT}:{os.pathsep.join(path for path in sys.path if path)}",
            **known,
            **values,
        }
        done = subprocess.run(
            ["sh", "-e", "-c", "\n".join(script)],
            env=environment, cwd=self.checkout, capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self.status = done.returncode
        return done.stdout + done.stderr

    def expand(self, text):
        """Return *text* with what GitHub puts in, and with places of this machine."""
        text = text.replace("${{ github.repository }}", "group/project")
        text = text.replace("${{ github.actor }}", "ci")
        text = text.replace("${{ secrets.GITHUB_TOKEN }}", "secret")
        text = text.replace("ghcr.io", self.registry)
        return text.replace("/tmp/", f"{self.checkout}/.tmp/")

    def load(self, name):
        return json.loads((self.checkout / name).read_text(encoding="utf-8"))


def substitute(text, known):
    return re.sub(r"\$(\w+)", lambda found: known.get(found[1], found[0]), text)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """What runners keep between pipelines: packages, tools trees, stages."""
    path = tmp_path_factory.mktemp("cache")
    shared = find_places().cache / "tools"
    shared.mkdir(parents=True, exist_ok=True)
    (path / "tools").symlink_to(shared)
    return path


def add_toy(runner, cache):
    """Put the toy recipe into the checkout; return what its pipeline has for variables."""
    toy.make_locked_recipe(runner.checkout / "recipes/toy", cache, find_places().cache)
    return {"RECIPE": "recipes/toy", "NAME": "toy", "VNFS_CACHE": str(cache)}


@pytest.fixture
def runner(tmp_path):
    directory = tmp_path / "registry"
    directory.mkdir()
    with running_registry(ensure_programs(), directory) as registry:
        yield Runner(tmp_path, registry.host)


def run_stages(runner, pipeline, stages, **more):
    for stage in stages:
        variables, script = pipeline[stage]
        said = runner.run(script, variables, **more)
        assert runner.status == 0, f"{stage}:\n{said}"


def verify_results(runner, name):
    """The same digest from build to push, and a stranger can pull what was signed."""
    digests = {file: runner.load(file)["digest"] for file in ("build.json", "verify.json")}
    digests |= {file: runner.load(file)["digest"] for file in ("push.json", "reproduce.json")}
    assert len(set(digests.values())) == 1, digests
    assert runner.load("build.json")["signers"] == []
    assert runner.load("reproduce.json")["same"] is True
    assert len(runner.load("verify.json")["signers"]) == 1
    for path in runner.checkout.rglob("*auth.json"):
        (found,) = json.loads(path.read_text())["auths"].values()
        assert base64.b64decode(found["auth"]) == b"ci:secret"
        assert path.stat().st_mode & 0o077 == 0
    registry = runner.load("push.json")["place"]
    elsewhere = runner.checkout / "elsewhere"
    elsewhere.mkdir()
    shutil.copyfile(runner.checkout / "site/trust.json", elsewhere / "trust.json")
    said = runner.run(
        [f"vnfsbuild pull --plain-http {registry}", f"vnfsbuild verify {name}"],
        {},
        VNFS_SITE=str(elsewhere),
        VNFS_STORE=str(elsewhere / "store"),
        VNFS_CACHE=str(elsewhere / "cache"),
    )
    assert runner.status == 0, said
    assert digests["push.json"] in said


@pytest.mark.integration
@pytest.mark.timeout(600)
@pytest.mark.xdist_group("pipeline")
@pytest.mark.parametrize("kind", PIPELINES)
def test_the_steps_run_one_after_another(kind, runner, cache):
    """All but the boot, for which the toy has no kernel; the long row has that."""
    more = add_toy(runner, cache)
    run_stages(runner, PIPELINES[kind], ["lock", "build", "reproduce", "release"], **more)
    verify_results(runner, "toy")


@pytest.mark.integration
@pytest.mark.timeout(600)
@pytest.mark.xdist_group("pipeline")
def test_a_pipeline_stops_where_it_must(runner, cache):
    """A stale lock ends with status 4, a signer that refuses with 1, and nothing waits."""
    more = add_toy(runner, cache)
    pipeline = PIPELINES["gitlab"]
    run_stages(runner, pipeline, ["lock", "build"], **more)
    said = runner.run(*pipeline["release"][::-1], **more, OUR_SIGNER_TOKEN="wrong")
    assert runner.status == 1, said
    assert not (runner.checkout / "push.json").exists()
    (runner.checkout / "recipes/toy/files/etc/motd").write_text("changed\n", encoding="utf-8")
    said = runner.run(*pipeline["lock"][::-1], **more)
    assert runner.status == 4, said
    assert "files/etc/motd was changed" in said
    said = runner.run(["vnfsbuild build recipes/toy"], pipeline["build"][0], **more)
    assert runner.status == 2, said


@pytest.mark.boot
@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.xdist_group("pipeline")
def test_the_whole_pipeline_with_a_capsule_that_boots(runner):
    # Without locks that may lie here: what is tested is made by this version.
    without = shutil.ignore_patterns("recipe.lock*")
    for source, target in (
        ("recipes/debian-13-minimal", "recipes/debian-13-minimal"),
        ("bootstrap-kernel", "bootstrap"),
    ):
        shutil.copytree(ROOT / source, runner.checkout / target, ignore=without)
    more = {
        "RECIPE": "recipes/debian-13-minimal",
        "NAME": "debian-13-minimal",
        "VNFS_CACHE": str(find_places().cache),
    }
    said = runner.run([f"vnfsbuild lock {more['RECIPE']}", "vnfsbuild lock bootstrap"], {}, **more)
    assert runner.status == 0, said
    run_stages(runner, PIPELINES["gitlab"], STAGES, **more)
    assert runner.load("boot.json")
    verify_results(runner, "debian-13-minimal")
