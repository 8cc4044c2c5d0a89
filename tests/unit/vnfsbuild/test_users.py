"""The account files that a tree starts with: the distribution's entries, then the recipe's."""

from dataclasses import replace

import pytest

from vnfsbuild.errors import InputError
from vnfsbuild.recipe import SystemUser
from vnfsbuild.users import make_skeleton, render_group, render_passwd

from .debs import make_deb, regular
from .test_lock import PACKAGE

PASSWD = "root:*:0:0:root:/root:/bin/bash\nnobody:*:65534:65534:nobody:/nonexistent:/bin/false\n"
GROUP = "root:*:0:\nadm:*:4:\nnogroup:*:65534:\n"


def user(name="munge", uid=201, **changes):
    words = {"gid": uid, "home": "/nonexistent", "shell": "/usr/sbin/nologin"}
    return SystemUser(name=name, uid=uid, **{**words, "groups": (), "comment": "", **changes})


def test_users_stand_after_the_distributions_own_and_are_locked():
    users = [user(), user("slurm", 64030, gid=300, comment="Slurm", home="/var/lib/slurm")]
    assert render_passwd(PASSWD, users) == PASSWD + (
        "munge:*:201:201::/nonexistent:/usr/sbin/nologin\n"
        "slurm:*:64030:300:Slurm:/var/lib/slurm:/usr/sbin/nologin\n"
    )
    assert render_group(GROUP, users) == GROUP + "munge:*:201:\nslurm:*:300:\n"


def test_a_user_is_in_groups_of_the_distribution_and_of_other_users():
    users = [user(), user("log", 210, groups=("adm", "munge"))]
    assert render_group(GROUP, users) == (
        "root:*:0:\nadm:*:4:log\nnogroup:*:65534:\nmunge:*:201:log\nlog:*:210:\n"
    )


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (user("root", 201), "users.system: root: the distribution has that name, uid 0"),
        (user("x", 65534), "users.system: x: uid 65534 is the distribution's nobody"),
    ],
)
def test_a_name_or_uid_of_the_distribution_is_refused(made, told):
    with pytest.raises(InputError, match=told):
        render_passwd(PASSWD, [made])


def test_a_gid_of_the_distribution_is_refused():
    with pytest.raises(InputError, match="munge: gid 4 is the distribution's adm"):
        render_group(GROUP, [user(gid=4)])


def test_an_unknown_group_is_told_with_those_that_there_are():
    with pytest.raises(InputError, match="munge: groups: found 'admin'") as raised:
        render_group(GROUP, [user(groups=("admin",))])
    assert raised.value.hint == "one of: root, adm, nogroup, munge"


def test_the_masters_come_out_of_the_locked_package(tmp_path):
    members = [
        (regular("./usr/share/base-passwd/passwd.master"), PASSWD.encode()),
        (regular("./usr/share/base-passwd/group.master"), GROUP.encode()),
    ]
    deb = make_deb(tmp_path / "x.deb", "Package: base-passwd\n", members)
    packages = {replace(PACKAGE, name="base-passwd"): (deb, "")}
    assert make_skeleton([user()], packages) == {
        "etc/passwd": render_passwd(PASSWD, [user()]).encode(),
        "etc/group": render_group(GROUP, [user()]).encode(),
    }
    assert make_skeleton([], packages) == {}


def test_without_that_package_it_is_told(tmp_path):
    with pytest.raises(InputError, match="no package base-passwd"):
        make_skeleton([user()], {PACKAGE: (tmp_path / "x.deb", "")})
