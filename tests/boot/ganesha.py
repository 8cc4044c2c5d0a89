"""nfs-ganesha in the laboratory's network: a server of files that is an ordinary process."""

from pathlib import Path

from vnfsbuild.toolstree import KINDS, Kind, ensure_tools_tree

KINDS["nfs"] = Kind(packages=("nfs-ganesha", "nfs-ganesha-vfs"))

CONFIG = """
NFS_CORE_PARAM {{ Protocols = 4; Bind_addr = 10.87.0.1; Enable_NLM = false;
  Enable_RQUOTA = false; mount_path_pseudo = true; allow_set_io_flusher_fail = true; }}
NFSv4 {{ Minor_Versions = 1, 2; Graceless = true; RecoveryBackend = fs;
  Only_Numeric_Owners = true; }}
EXPORT {{ Export_Id = 1; Path = "{directory}"; Pseudo = "{pseudo}"; Access_Type = RO;
  Squash = All_Squash; SecType = sys; FSAL {{ Name = VFS; }} }}
"""

# The tree is its /usr, for it looks for its parts at fixed places; what it writes goes at the end.
START = """
set -e
mount -t tmpfs tmpfs /var/lib
mkdir -p /var/lib/nfs/ganesha
mount -t tmpfs tmpfs /run
mkdir /run/ganesha
mount --bind "$1/usr" /usr
exec /usr/bin/ganesha.nfsd -F -f "$2" -L STDERR -p /run/ganesha/pid
"""


def start_ganesha(laboratory, cache: Path, directory: Path, *, pseudo: str):
    """Export *directory* as *pseudo* to the machines of *laboratory*."""
    tree = ensure_tools_tree("nfs", cache)
    config = laboratory.directory / "ganesha.conf"
    config.write_text(CONFIG.format(directory=directory, pseudo=pseudo), encoding="utf-8")
    argv = ["unshare", "--mount", "sh", "-c", START, "sh", str(tree), str(config)]
    return laboratory.start("ganesha", argv)
