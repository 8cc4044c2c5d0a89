"""provisiond.toml."""

from ipaddress import IPv4Address, IPv4Interface

import pytest

from provisiond.config import SETTINGS, default_range, parse_config, render_config
from vnfsbuild.errors import InputError

GIVEN = {
    ("network", "device"): "eth1",
    ("network", "address"): "10.87.0.1/24",
    ("network", "range"): "10.87.0.100-10.87.0.199",
}


def test_what_init_writes_is_what_serve_reads():
    text = render_config({**GIVEN, ("nodes", "registration"): "open"})
    config = parse_config(text, where="x")
    assert config.registration == "open"
    assert config.first_address == IPv4Address("10.87.0.100")
    assert config.server_url == "https://10.87.0.1:8987"
    assert config.boot_url == "http://10.87.0.1:8988"
    assert config.name_servers == (IPv4Address("10.87.0.1"),)
    assert config.total_nodes == 10000


def test_the_file_tells_every_setting_and_comments_out_the_defaults():
    text = render_config(GIVEN)
    for setting in SETTINGS:
        assert f"# {setting.meaning}\n" in text
    assert 'device = "eth1"\n' in text
    assert '# registration = "ask"\n' in text


def test_every_default_can_be_written_out():
    given = {(s.table, s.key): s.default for s in SETTINGS if s.default is not None}
    lines = render_config({**given, **GIVEN}).replace("\n# ", "\n#").splitlines()
    keys = {setting.key for setting in SETTINGS}
    shown = [
        line.lstrip("#") if line.lstrip("#").partition(" = ")[0] in keys else line for line in lines
    ]
    assert parse_config("\n".join(shown), where="x") == parse_config(
        render_config(GIVEN), where="x"
    )


def test_all_faults_are_told_at_once():
    with pytest.raises(InputError) as caught:
        parse_config(
            'devise = "x"\nstate_dir = 3\n'
            '[network]\nadress = "1"\naddress = "10.0.0.1"\nrange = "b-a"\n'
            "[http]\nport = 0\n[nodez]\nx = 1\n[overlay]\nfiles = true\n",
            where="p.toml",
        )
    assert str(caught.value).splitlines() == [
        "p.toml: devise: unknown key",
        "p.toml: network.adress: unknown key; did you mean 'network.address'?",
        "p.toml: nodez: unknown key",
        "p.toml: state_dir: found 3, expected an absolute path",
        "p.toml: network.device: missing: the device of the provisioning network",
        "p.toml: network.address: found '10.0.0.1', "
        "expected an address with its prefix length, as 10.87.0.1/24",
        "p.toml: network.range: found 'b-a', expected two addresses, as 10.87.0.100-10.87.0.199",
        "p.toml: http.port: found 0, expected 1 to 65535",
        "p.toml: overlay.files: found True, expected an absolute path",
    ]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ('range = "10.88.0.1-10.88.0.9"', "found 10.88.0.1 as first, expected one of 10.87.0.0/24"),
        ('range = "10.87.0.1-10.87.0.9"', "holds 10.87.0.1, the address of this machine"),
        ('range = "10.87.0.9-10.87.0.2"', "expected the lower address first"),
        ('range = 5', "expected two addresses"),
        ('range = "10.87.0.2-10.87.0.9"\ndevice = "a b"', "expected the name of a network device"),
        ('range = "10.87.0.2-10.87.0.9"\ndns = "x"', "expected a list of IPv4 addresses"),
        ('range = "10.87.0.2-10.87.0.9"\n[http]\nport = 8988', "found the same as http.port"),
        ('range = "10.87.0.2-10.87.0.9"\n[boot]\nkernel_arguments = ["a b"]', "words without"),
        ('range = "10.87.0.2-10.87.0.9"\n[boot]\nkernel_arguments = ["${x}"]', "words without"),
        ('range = "10.87.0.2-10.87.0.9"\n[http]\nservers = ["http://a"]', "begin with https://"),
        ('range = "10.87.0.2-10.87.0.9"\n[http]\nmirrors = ["ftp://a"]', "with http:// or https"),
        ('range = "10.87.0.2-10.87.0.9"\n[http]\nmirrors = "http://a"', "a list of addresses"),
        ('range = "10.87.0.2-10.87.0.9"\n[http]\nmirrors = [7]', "a list of addresses"),
        ('range = "10.87.0.2-10.87.0.9"\n[nfs]\nexports = ["a"]', "expected a list of exports"),
        ('range = "10.87.0.2-10.87.0.9"\n[nodes]\nname_pattern = "7"', "as n####"),
        ('range = "10.87.0.2-10.87.0.9"\n[nodes]\nregistration = "no"', "ask, open, closed"),
        ('range = "10.87.0.2-10.87.0.9"\n[nodes]\ntotal_nodes = true', "expected 1 to"),
        ('range = "10.87.0.2-10.87.0.9"\n[nodes]\ncheckin_seconds = 180', "more than checkin_"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told(more, told):
    device = "" if "device" in more else 'device = "eth1"\n'
    with pytest.raises(InputError, match=r"(?s)" + told.replace("[", r"\[")):
        parse_config(f'[network]\n{device}address = "10.87.0.1/24"\n{more}\n', where="x")


def test_more_servers_and_mirrors_come_after_this_one():
    given = {
        **GIVEN,
        ("http", "servers"): ["https://10.87.0.2:8987/", "https://10.87.0.1:8987"],
        ("http", "mirrors"): ["http://mirror.example.org/blobs/", "https://[fd00::1]:8443/b"],
        ("nfs", "exports"): ["10.87.0.1:/blobs", "[fd00::1]:/"],
    }
    config = parse_config(render_config(given), where="x")
    assert config.server_urls == ("https://10.87.0.1:8987", "https://10.87.0.2:8987")
    assert config.blob_urls == (
        "http://10.87.0.1:8988/blobs",
        "http://mirror.example.org/blobs",
        "https://[fd00::1]:8443/b",
    )
    assert config.nfs_exports == ("10.87.0.1:/blobs", "[fd00::1]:/")
    alone = parse_config(render_config(GIVEN), where="x")
    assert (len(alone.server_urls), len(alone.blob_urls), alone.nfs_exports) == (1, 1, ())


@pytest.mark.parametrize("url", ["sqlite:///x", "provisiond.db", 7, "postgres://x/y"])
def test_the_database_is_sqlite_or_postgresql(url):
    text = render_config({**GIVEN, ("", "database"): url})
    with pytest.raises(InputError, match=r"database: found .*, expected postgresql://USER@HOST"):
        parse_config(text, where="x")
    good = "postgresql://provisiond@/nodes?host=/run/postgresql"
    given = render_config({**GIVEN, ("", "database"): good})
    assert parse_config(given, where="x").database == good
    assert parse_config(render_config(GIVEN), where="x").database == ""


def test_a_file_that_is_not_toml_is_told_with_its_line():
    with pytest.raises(InputError, match=r"x: not TOML: .*line 2"):
        parse_config("\nx = [}\n", where="x")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.87.0.1/24", "10.87.0.101-10.87.0.254"),
        ("10.87.0.254/24", "10.87.0.1-10.87.0.253"),
        ("10.87.0.1/16", "10.87.0.101-10.87.255.254"),
        ("192.168.9.9/29", "192.168.9.10-192.168.9.14"),
    ],
)
def test_the_default_range_leaves_this_machine_out(address, expected):
    assert default_range(IPv4Interface(address)) == expected


def test_there_is_no_room_in_a_network_of_two():
    with pytest.raises(InputError, match="no room"):
        default_range(IPv4Interface("10.0.0.0/31"))
