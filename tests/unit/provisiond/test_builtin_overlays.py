"""The overlays that come with provisiond: what each makes of what is set, byte for byte."""

import importlib.util
import shutil
import subprocess
from pathlib import Path
from unittest.mock import ANY

import pytest

_SPEC = importlib.util.spec_from_file_location(
    "overlayworld", Path(__file__).with_name("overlayworld.py")
)
w = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(w)

HASH = "$6$saltsalt$0123456789abcdef"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJqgQ0nnF3Y3xw5rjZJUiwM7KlC2oHIZ0123456789ab alice"
HOSTS = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
NETWORK = "[Match]\nMACAddress=52:54:00:00:00:02\n\n[Link]\nRequiredForOnline=yes\n\n[Network]\n"


def test_a_node_with_nothing_set_gets_what_makes_it_this_node():
    assert w.texts(w.built_in(with_secrets=False)) == {
        "etc/hostname": "n00001\n",
        "etc/hosts": f"{HOSTS}10.87.0.100 n00001\n",
        "etc/machine-id": "b081a616aed1478631e97a5fbf536d10\n",
        "etc/systemd/network/10-vnfs.network": f"{NETWORK}Address=10.87.0.100/24\n",
    }


def test_what_a_site_knows():
    files = w.texts(w.built_in(site=w.RICH, with_secrets=False))
    assert files["etc/systemd/network/10-vnfs.network"] == (
        f"{NETWORK}Address=10.87.0.100/24\nGateway=10.87.0.254\nDNS=10.87.0.1\nDNS=10.87.0.2\n"
        "Domains=cluster.example.org\n"
    )
    assert files["etc/resolv.conf"] == (
        "search cluster.example.org\nnameserver 10.87.0.1\nnameserver 10.87.0.2\n"
    )
    assert files["etc/hosts"] == f"{HOSTS}10.87.0.100 n00001.cluster.example.org n00001\n"


GOLDEN = [
    ("hosts", {"hosts": "all"},
     {"etc/hosts": f"{HOSTS}10.87.0.100 n00001\n10.87.0.101 n00002\n"}),
    ("resolver", {"dns": "10.0.0.1,10.0.0.2"},
     {"etc/resolv.conf": "nameserver 10.0.0.1\nnameserver 10.0.0.2\n"}),
    ("timezone", {"timezone": "Europe/Berlin"},
     {"etc/localtime": "../usr/share/zoneinfo/Europe/Berlin", "etc/timezone": "Europe/Berlin\n"}),
    ("kernel-modules", {"kernel_modules": "nvme_rdma,ipmi_si"},
     {"etc/modules-load.d/90-vnfs.conf": "nvme_rdma\nipmi_si\n"}),
    ("sysctl", {"sysctl__vm__swappiness": "1", "sysctl__kernel__panic": "10"},
     {"etc/sysctl.d/90-vnfs.conf": "kernel.panic = 10\nvm.swappiness = 1\n"}),
    ("mounts", {"mount__home__what": "nfs1:/export/home", "mount__home__where": "/home",
                "mount__scratch__what": "LABEL=scratch", "mount__scratch__where": "/scratch",
                "mount__scratch__type": "xfs", "mount__scratch__options": "noatime",
                "mount__half__what": "nfs1:/x"},
     {"etc/fstab": "# mount.half: where is not set\n"
                   "nfs1:/export/home /home nfs _netdev,nofail 0 0\n"
                   "LABEL=scratch /scratch xfs noatime 0 0\n"}),
    ("timesyncd", {"ntp": "a.example.org,b.example.org"},
     {"etc/systemd/timesyncd.conf.d/90-vnfs.conf": "[Time]\nNTP=a.example.org b.example.org\n"}),
    ("rsyslog", {"syslog": "log.example.org:1514"},
     {"etc/rsyslog.d/90-vnfs.conf":
      '*.* action(type="omfwd" target="log.example.org" port="1514" protocol="tcp"\n'
      '    action.resumeRetryCount="-1" queue.type="LinkedList" queue.size="10000")\n'}),
    ("users", {"usergroup__staff__gid": "500", "user__alice__uid": "1000",
               "user__alice__group": "staff", "user__alice__groups": "video,render",
               "user__alice__description": 'Alice "A"', "user__bob__shell": "/bin/sh"},
     {"etc/systemd/system/sysinit.target.wants/vnfs-users.service":
      "/etc/systemd/system/vnfs-users.service",
      "etc/systemd/system/vnfs-users.service": ANY,
      "etc/sysusers.d/90-vnfs.conf":
      "g staff 500\nu alice 1000:staff \"Alice 'A'\" /home/alice /bin/bash\nm alice video\n"
      'm alice render\nu bob - "" /home/bob /bin/sh\n'}),
    ("authorized-keys", {"authorized_key__alice": KEY},
     {"root/.ssh": "", "root/.ssh/authorized_keys": f"{KEY}\n"}),
    ("slurm", {"slurm": "ctl:6817"},
     {"etc/default/slurmd": 'SLURMD_OPTIONS="--conf-server ctl:6817"\n',
      "etc/slurm/slurmd.options": 'SLURMD_OPTIONS="--conf-server ctl:6817"\n',
      "etc/sysconfig/slurmd": 'SLURMD_OPTIONS="--conf-server ctl:6817"\n'}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings", "files"), GOLDEN, ids=[row[0] for row in GOLDEN])
def test_what_an_overlay_makes_of_what_is_set(name, settings, files):
    assert w.texts(w.built_in(name, **settings)) == files


@pytest.mark.parametrize("name", sorted(set(w.BUILT_INS) - {
    "hostname", "hosts", "machine-id", "network", "munge", "slurm-drain", "ssh-host-keys",
}))  # fmt: skip
def test_nothing_set_nothing_made(name):
    assert w.texts(w.built_in(name)) == {}


def test_chrony_at_the_places_of_both_families():
    files = w.texts(w.built_in("chrony", ntp="a.example.org"))
    assert set(files) == {"etc/chrony.conf", "etc/chrony/chrony.conf"}
    assert "server a.example.org iburst\n" in files["etc/chrony.conf"]
    assert len(set(files.values())) == 1


def test_slurm_conf_names_all_nodes():
    text = w.texts(w.built_in("slurm-conf", slurm="ctl:6818", slurm_cluster="hpc"))[
        "etc/slurm/slurm.conf"
    ]
    assert "ClusterName=hpc\nSlurmctldHost=ctl\nSlurmctldPort=6818\n" in text
    assert "\nSlurmUser=slurm\n" in text
    assert (
        "NodeName=n00001 NodeAddr=10.87.0.100\nNodeName=n00002 NodeAddr=10.87.0.101 CPUs=4\n"
        "PartitionName=main" in text
    )


def test_slurmctld_where_no_name_server_knows_it():
    settings = {"slurm": "ctl", "slurm_address": "10.87.0.1"}
    text = w.texts(w.built_in("slurm-conf", **settings))["etc/slurm/slurm.conf"]
    assert "\nSlurmctldHost=ctl(10.87.0.1)\nSlurmUser=slurm\n" in text
    options = w.texts(w.built_in("slurm", **settings))["etc/slurm/slurmd.options"]
    assert options == 'SLURMD_OPTIONS="--conf-server 10.87.0.1"\n'


def test_passwords_are_set_beside_the_capsules_own():
    files = w.built_in("passwords", root_password=HASH, user__alice__password="*")
    assert files["etc/vnfs/passwords"].data.decode() == f"root:{HASH}\nalice:*\n"
    assert files["etc/vnfs/passwords"].mode == 0o600
    unit = "etc/systemd/system/vnfs-passwords.service"
    wanted = "etc/systemd/system/sysinit.target.wants/vnfs-passwords.service"
    assert files[wanted].link == f"/{unit}"
    assert "ExecStart=/bin/sh /etc/vnfs/set-passwords\n" in files[unit].data.decode()
    assert "chpasswd --encrypted" in files["etc/vnfs/set-passwords"].data.decode()
    assert w.built_in("passwords", root_password=HASH, with_secrets=False) == {}


def test_the_munge_key_is_one_for_all_and_belongs_to_munge():
    files = w.built_in("munge")
    key = files["etc/munge/munge.key"]
    assert (key.mode, key.owner, key.group, key.secret) == (0o400, "munge", "munge", True)
    assert len(key.data) == 128
    owners = files["etc/tmpfiles.d/vnfs-owners.conf"].data.decode()
    assert 'z "/etc/munge/munge.key" 0400 munge munge -\n' in owners


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs ssh-keygen")
def test_ssh_reads_the_host_key(tmp_path):
    files = w.built_in("ssh-host-keys")
    private, public = (files[f"etc/ssh/ssh_host_ed25519_key{end}"] for end in ("", ".pub"))
    assert (private.mode, public.mode) == (0o600, 0o644)
    path = tmp_path / "key"
    path.write_bytes(private.data)
    path.chmod(0o600)
    argv = ["ssh-keygen", "-y", "-f", str(path)]
    told = subprocess.run(argv, capture_output=True, check=True).stdout.decode()
    assert told == public.data.decode()
    assert w.built_in("ssh-host-keys") == files


INTERFACES = {
    "boot_interface": "eth0",
    "interface__eth1__hwaddr": "52:54:00:00:00:aa", "interface__eth1__bond": "bond0",
    "interface__bond0__bond_mode": "802.3ad", "interface__bond0__mtu": "9000",
    "interface__data__vlan": "42", "interface__data__vlan_parent": "eth0",
    "interface__data__address": "10.42.0.7/16", "interface__data__gateway": "10.42.0.1",
    "interface__ib0__address": "10.99.0.7/16", "interface__ib0__onboot": "false",
}  # fmt: skip


def test_interfaces_by_networkd():
    files = w.texts(w.built_in("network", **INTERFACES))
    place = "etc/systemd/network"
    assert files == {
        f"{place}/10-vnfs.network": "[Match]\nName=eth0\n\n[Link]\nRequiredForOnline=yes\n\n"
        "[Network]\nAddress=10.87.0.100/24\nVLAN=data\n",
        f"{place}/20-bond0.netdev": "[NetDev]\nName=bond0\nKind=bond\n\n[Bond]\nMode=802.3ad\n"
        "MIIMonitorSec=100ms\n",
        f"{place}/20-bond0.network": "[Match]\nName=bond0\n\n[Link]\nRequiredForOnline=no\n"
        "MTUBytes=9000\n\n[Network]\nLinkLocalAddressing=no\n",
        f"{place}/20-data.netdev": "[NetDev]\nName=data\nKind=vlan\n\n[VLAN]\nId=42\n",
        f"{place}/20-data.network": "[Match]\nName=data\n\n[Link]\nRequiredForOnline=no\n\n"
        "[Network]\nAddress=10.42.0.7/16\nGateway=10.42.0.1\n",
        f"{place}/20-eth1.network": "[Match]\nPermanentMACAddress=52:54:00:00:00:aa\n\n[Link]\n"
        "RequiredForOnline=no\n\n[Network]\nBond=bond0\nLinkLocalAddressing=no\n",
        f"{place}/20-ib0.network": "[Match]\nName=ib0\n\n[Link]\nRequiredForOnline=no\n"
        "ActivationPolicy=manual\n\n[Network]\nAddress=10.99.0.7/16\n",
    }


def test_interfaces_by_networkmanager():
    files = w.built_in("network", site=w.RICH, network_setup="networkmanager", **INTERFACES)
    place = "etc/NetworkManager/system-connections"
    assert {path.removeprefix(f"{place}/") for path in files} == {
        "vnfs.nmconnection", "vnfs-bond0.nmconnection", "vnfs-data.nmconnection",
        "vnfs-eth1.nmconnection", "vnfs-ib0.nmconnection",
    }  # fmt: skip
    assert {file.mode for file in files.values()} == {0o600}
    found = w.texts(files)
    assert found[f"{place}/vnfs.nmconnection"] == (
        "[connection]\nid=vnfs\ntype=ethernet\nautoconnect=true\ninterface-name=eth0\n\n[ipv4]\n"
        "method=manual\naddress1=10.87.0.100/24,10.87.0.254\ndns=10.87.0.1;10.87.0.2;\n"
        "dns-search=cluster.example.org;\n\n[ipv6]\nmethod=link-local\n"
    )
    assert found[f"{place}/vnfs-data.nmconnection"] == (
        "[connection]\nid=vnfs-data\ntype=vlan\ninterface-name=data\nautoconnect=true\n\n"
        "[vlan]\nid=42\nparent=eth0\n\n"
        "[ipv4]\nmethod=manual\naddress1=10.42.0.7/16,10.42.0.1\n\n[ipv6]\nmethod=link-local\n"
    )
    assert "[bond]\nmode=802.3ad\n" in found[f"{place}/vnfs-bond0.nmconnection"]
    assert "master=bond0\nslave-type=bond\n" in found[f"{place}/vnfs-eth1.nmconnection"]
    assert "[ipv4]" not in found[f"{place}/vnfs-eth1.nmconnection"]
