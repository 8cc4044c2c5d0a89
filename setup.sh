#!/bin/sh
# Makes this checkout ready to use: `./setup.sh` for everything, `./setup.sh python` for what
# `make check` needs. The second run finds all of it done and takes about a second.
#
# A script of its own and not lines of the Makefile, because a fresh machine has no Python packages
# yet for anything better, and because each step has conditions and must tell how long it took.
set -eu
cd "$(dirname "$0")"

venv=.venv
stamp=$venv/.installed
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# What the programs need of Debian. Programs that shape bytes, and QEMU, are not here: they come
# from Debian 13 into private directories (docs/adr/0002-tools-trees.md).
packages='apt ca-certificates debian-archive-keyring dnsmasq-base dpkg gpgv iproute2 ipxe kmod'
packages="$packages mount openssl python3 python3-venv shellcheck tar uidmap util-linux"
# `make test` starts PostgreSQL servers of its own (the one that the package may start is not used),
# logs in to nodes in rescue, and starts one in 1970. `make bench` packs as others do, too.
[ "${1:-all}" = python ] || packages="$packages cpio libfaketime openssh-client pigz postgresql"

die() {
    echo "setup: $1" >&2
    [ -z "${2:-}" ] || echo "hint: $2" >&2
    exit 1
}

now() { date +%s%3N; }

# took SINCE: prints the seconds since SINCE, as the end of a line.
took() {
    ms=$(($(now) - $1))
    printf '%s.%s s\n' $((ms / 1000)) $((ms % 1000 / 100))
}

# begin LABEL WHAT: prints the start of the line that `took` ends.
begin() { printf '%-10s %s  ' "$1" "$2"; }

# quietly COMMAND…: its output is shown only when it fails.
quietly() {
    "$@" >"$log" 2>&1 || {
        echo
        tail -n 30 "$log" >&2
        return 1
    }
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        command -v sudo >/dev/null || die "'$1' must run as root, and there is no sudo" "su, then again"
        sudo --preserve-env=VNFS_CACHE,http_proxy,https_proxy,no_proxy "$@"
    fi
}

is_installed() {
    [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

install_packages() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet \
        --no-install-recommends -o Dpkg::Use-Pty=0 "$@"
}

debian_packages() {
    since=$(now)
    command -v apt-get >/dev/null || die 'no apt-get here, expected Debian 12 or 13' \
        "make .venv with Python 3.11 or newer and 'pip install -e .[dev]'; needed besides: $packages"
    # The shared library that libarchive-c loads; Debian 13 gave the package another name.
    is_installed libarchive13t64 || is_installed libarchive13 || {
        # shellcheck disable=SC1091
        case $(. /etc/os-release && echo "${VERSION_ID:-}") in
            12) packages="$packages libarchive13" ;;
            *) packages="$packages libarchive13t64" ;;
        esac
    }
    missing=
    for package in $packages; do
        is_installed "$package" || missing="$missing $package"
    done
    if [ -z "$missing" ]; then
        begin packages 'nothing missing'
    else
        begin packages "installing$missing"
        # The lists of packages may be missing, or older than what the mirror has.
        # shellcheck disable=SC2086
        install_packages $missing >"$log" 2>&1 || {
            quietly as_root apt-get update --quiet && quietly install_packages $missing
        } || die 'apt-get failed' "apt-get install$missing"
    fi
    took "$since"
}

python_environment() {
    since=$(now)
    wanted=$(cat pyproject.toml setup.py setup.sh | sha256sum)
    if [ -x $venv/bin/python ] && [ "$(cat $stamp 2>/dev/null)" = "$wanted" ]; then
        begin python "$venv is up to date"
    else
        begin python "$venv with the packages of pyproject.toml"
        python=/usr/bin/python3
        [ -x $python ] || python=python3
        $python -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
            die "$($python --version): expected Python 3.11 or newer"
        [ -x $venv/bin/python ] || quietly $python -m venv $venv || die "$venv cannot be made"
        quietly $venv/bin/python -m pip install --quiet --disable-pip-version-check \
            --editable '.[dev]' || die 'pip failed'
        echo "$wanted" >$stamp
    fi
    took "$since"
}

tools_trees() {
    for tree in build lab; do
        since=$(now)
        begin tools "tree $tree"
        # Builds run as root, so the cache is root's.
        quietly as_root $venv/bin/python -B -c '
import sys
from vnfsbuild.errors import VnfsbuildError, render_error
from vnfsbuild.places import find_places
from vnfsbuild.toolstree import ensure_tools_tree
try:
    ensure_tools_tree(sys.argv[1], find_places().cache, progress=print)
except VnfsbuildError as error:
    sys.exit(render_error(error))
' "$tree" || die "the tools tree $tree cannot be made"
        took "$since"
    done
}

debian_packages
python_environment
[ "${1:-all}" = python ] || tools_trees
