"""Run by the Python of a tools tree, not by ours: what dnf's own solver says.

Argument: a file with the question, as JSON; see :func:`vnfsbuild.sources.dnf.solve`. Prints the
answer as JSON. Nothing of the host's configuration comes in, and nothing is written to a root.
"""

import json
import sys
from typing import Any


def ask(question: "dict[str, Any]") -> "dict[str, Any]":
    """Return what dnf would install, or why it would not.

    In the steps in which it will be asked: what a step chose is kept in those after it.
    """
    import dnf  # type: ignore[import-not-found]

    base = prepare(dnf.Base(), dnf, question)
    chosen: list[Any] = []
    for names in question["steps"]:
        base.reset(goal=True)
        for package in chosen:
            base.package_install(package)
        unknown = [name for name in names if not mark(base, dnf, name)]
        if unknown:
            return {"unknown": unknown, "known": sorted({p.name for p in base.sack.query()})}
        try:
            base.resolve()
        except dnf.exceptions.DepsolveError as error:
            return {"unsolvable": str(error)}
        chosen = sorted(base.transaction.install_set)
    return {"chosen": sorted(checksum(package) for package in chosen)}


def prepare(base: "Any", dnf: "Any", question: "dict[str, Any]") -> "Any":
    """Let *base* know the repositories of *question*, and nothing else."""
    conf, work = base.conf, question["directory"]
    conf.installroot = work + "/root"
    conf.cachedir, conf.persistdir, conf.logdir = work + "/cache", work + "/state", work + "/log"
    conf.reposdir, conf.varsdir, conf.pluginpath = [], [], []
    conf.plugins = False
    conf.best = True
    conf.gpgcheck = False
    conf.install_weak_deps = question["recommends"]
    conf.optional_metadata_types = ["filelists"]
    conf.substitutions["releasever"] = question["release"]
    conf.substitutions["arch"] = conf.substitutions["basearch"] = question["architecture"]
    conf.module_platform_id = question["platform"]
    for item in question["repositories"]:
        repo = dnf.repo.Repo(item["id"], conf)
        repo.baseurl = ["file://" + item["path"]]
        repo.priority = item["priority"]
        repo.module_hotfixes = item["whole"]
        base.repos.add(repo)
    base.fill_sack(load_system_repo=False)
    query = base.sack.query().filterm(arch__neq=[question["architecture"], "noarch"])
    base.sack.add_excludes(query)
    base.sack.add_excludes(base.sack.query().filterm(name=question["removed"] or [""]))
    return base


def mark(base: "Any", dnf: "Any", name: str) -> bool:
    """Ask for the package *name*; tell whether there is one."""
    try:
        base.install(name)
    except dnf.exceptions.MarkingError:
        return False
    return True


def checksum(package: "Any") -> str:
    """Return the digest of *package* that the metadata names."""
    return str(package.chksum[1].hex())


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:  # noqa: PTH123  # imports little
        json.dump(ask(json.load(file)), sys.stdout)
