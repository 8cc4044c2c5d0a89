# shellcheck shell=sh
# How the bootstrap gets one network interface with an address, however long that takes.
#
# Words that count (kernel command line, or the node's own in site.cpio; docs/booting.md):
#   BOOTIF=01-xx-…         the interface that firmware booted from
#   vnfs.interface=        another one: a hardware address, or a name
#   vnfs.vlan=100          its VLAN with this number, tagged
#   vnfs.ip=10.1.0.7/16    this address, and no DHCP; vnfs.router= and vnfs.dns= with it
#   vnfs.tries=, vnfs.on_failure=   after so many tries: retry, reboot or local
#
# Reading this file changes nothing. SYS_NET and RUN are set by whoever reads it.

# list_interfaces: print the names of the physical network interfaces.
list_interfaces() {
    for place in "$SYS_NET"/*; do
        [ -e "$place/device" ] && echo "${place##*/}"
    done
}

# wanted_interface: print how the interface is called that is to be taken first, if that was said:
# a hardware address, or a name.
wanted_interface() {
    wanted=$(argument vnfs.interface)
    if [ -z "$wanted" ]; then
        wanted=$(argument BOOTIF | tr 'A-F-' 'a-f:')
        # BOOTIF= begins with the type of the hardware.
        wanted=${wanted#*:}
    fi
    echo "$wanted"
}

# find_interface WANTED: print the name of the interface with this hardware address or name.
find_interface() {
    [ -n "$1" ] || return 0
    for name in $(list_interfaces); do
        read -r address <"$SYS_NET/$name/address"
        if [ "$address" = "$1" ] || [ "$name" = "$1" ]; then echo "$name"; fi
    done
}

# wait_for_hardware WANTED: until that interface is there, or any when WANTED is empty.
wait_for_hardware() {
    second=0
    while [ $second -lt 15 ]; do
        load_drivers
        if [ -n "$1" ]; then
            [ -z "$(find_interface "$1")" ] || return 0
        else
            [ -z "$(list_interfaces)" ] || return 0
        fi
        [ $second -ne 3 ] || tell "waiting for the network interface ${1:-"(any)"}"
        [ $second -lt 1 ] || sleep 1
        second=$((second + 1))
    done
    tell "network interface ${1:-"(any)"}: not there; no driver for it here?"
    return 1
}

# has_link INTERFACE
has_link() {
    # Reading fails while the interface is down.
    read -r carrier 2>/dev/null <"$SYS_NET/$1/carrier" || carrier=0
    [ "$carrier" = 1 ]
}

# with_link NAME...: print those that have a link.
with_link() {
    for name in "$@"; do
        if has_link "$name"; then echo "$name"; fi
    done
}

# wait_for_link FIRST SECONDS NAME...: until FIRST has a link; when FIRST is empty, until one of
# the others has, and a moment longer: the slower ones may be the wired ones.
wait_for_link() {
    first=$1
    tenths=$(($2 * 10))
    shift 2
    while [ $tenths -gt 0 ]; do
        if [ -n "$first" ]; then
            ! has_link "$first" || return 0
        elif [ -n "$(with_link "$@")" ]; then
            [ $tenths -le 20 ] || tenths=20
        fi
        sleep 0.1
        tenths=$((tenths - 1))
    done
    [ -z "$first" ] || return 1
}

# device_of INTERFACE: print the device that carries the address, made when it is not there yet:
# the interface, or its VLAN.
device_of() {
    vlan=$(argument vnfs.vlan)
    if [ -z "$vlan" ]; then
        echo "$1"
        return
    fi
    device=$1.$vlan
    if [ ! -e "$SYS_NET/$device" ]; then
        /usr/sbin/modprobe -q 8021q 2>/dev/null
        if ! ip link add link "$1" name "$device" type vlan id "$vlan" 2>/dev/null; then
            tell "$1: VLAN $vlan cannot be made"
            return 1
        fi
    fi
    ip link set dev "$device" up
    echo "$device"
}

# release INTERFACE: end its DHCP client, and take its addresses and VLANs away.
release() {
    for place in "$SYS_NET/$1".* "$SYS_NET/$1"; do
        [ -e "$place" ] || continue
        device=${place##*/}
        if [ -f "$RUN/udhcpc.$device.pid" ]; then
            kill "$(cat "$RUN/udhcpc.$device.pid")" 2>/dev/null
            rm -f "$RUN/udhcpc.$device.pid"
        fi
        ip -4 address flush dev "$device"
        [ "$device" = "$1" ] || ip link delete "$device"
    done
}

# lease INTERFACE: get it an address by DHCP within eight seconds; the client stays and renews it.
lease() {
    device=$(device_of "$1") || return 1
    # It goes on in the background, and would keep a pipe open that we were started with.
    udhcpc -i "$device" -n -t 4 -T 2 -A 2 -s "$UDHCPC" -p "$RUN/udhcpc.$device.pid" \
        -V vnfs-bootstrap </dev/null >/dev/null 2>&1 &&
        ip -4 address show dev "$device" | grep -q inet
}

# ask INTERFACE: lease, with the outcome in a file.
ask() {
    if lease "$1"; then echo yes >"$RUN/asked.$1.new"; else echo no >"$RUN/asked.$1.new"; fi
    mv "$RUN/asked.$1.new" "$RUN/asked.$1"
}

# lease_one NAME...: ask by all of these interfaces at once, and keep the first that was answered.
lease_one() {
    for name in "$@"; do
        rm -f "$RUN/asked.$name"
        ask "$name" &
    done
    # Not by "wait": that of process 1 can hang, for a client that went into the background is its
    # child too.
    kept=
    for name in "$@"; do
        tenths=150
        while [ ! -f "$RUN/asked.$name" ] && [ $tenths -gt 0 ]; do
            sleep 0.1
            tenths=$((tenths - 1))
        done
        answered=
        read -r answered 2>/dev/null <"$RUN/asked.$name"
        if [ -z "$kept" ] && [ "$answered" = yes ]; then kept=$name; else release "$name"; fi
    done
    [ -n "$kept" ]
}

# take_address INTERFACE: give it the address that was said.
take_address() {
    device=$(device_of "$1") || return 1
    address=$(argument vnfs.ip)
    if ! ip address add "$address" dev "$device" 2>/dev/null; then
        # It is there already, from an earlier try.
        if ! ip -4 address show dev "$device" | grep -q -F "inet ${address%/*}/"; then
            tell "$device: vnfs.ip=$address: found no address, expected one as 10.1.0.7/16"
            return 1
        fi
    fi
    router=$(argument vnfs.router)
    [ -z "$router" ] || ip route replace default via "$router" dev "$device"
    for server in $(argument vnfs.dns | tr , ' '); do
        echo "nameserver $server"
    done >/etc/resolv.conf
    tell "$device: address $address${router:+, router $router}, as was said"
}

# configure NAME...: give one of these interfaces an address; all have a link.
configure() {
    [ $# -gt 0 ] || return 1
    if [ -n "$(argument vnfs.ip)" ]; then
        take_address "$1"
    else
        lease_one "$@"
    fi
}

# describe NAME...: print in words what keeps these interfaces from working.
describe() {
    said=
    for name in "$@"; do
        if ! has_link "$name"; then
            why="no link: is the cable in?"
        elif [ -n "$(argument vnfs.ip)" ]; then
            why="not given its address"
        else
            why="link, but no DHCP server answers"
        fi
        said="$said${said:+; }$name: $why"
    done
    echo "${said:-no interface}"
}

# try_network ROUND: one try. At first the wanted interface alone: links of fast cards take a while,
# and switches may wait for half a minute before they forward. Later every other that has a link
# too: a cable may have been moved. All that have a link when no interface is wanted.
try_network() {
    first=$(find_interface "$(wanted_interface)")
    names=$(list_interfaces)
    for name in $names; do
        ip link set dev "$name" up
    done
    # shellcheck disable=SC2086  # words on purpose
    wait_for_link "$first" 10 $names
    patience=0
    if [ -n "$first" ]; then
        patience=2
        if has_link "$first"; then
            patience=5
            ! configure "$first" || return 0
        fi
    fi
    [ "$1" -ge $patience ] || return 1
    others=
    for name in $names; do
        [ "$name" = "$first" ] || others="$others $name"
    done
    # shellcheck disable=SC2046,SC2086  # words on purpose
    configure $(with_link $others)
}

# give_up_after ROUND: whether that was the last try, after which the node starts anew.
give_up_after() {
    tries=$(argument vnfs.tries)
    case $tries in
        '' | *[!0-9]* | 0) return 1 ;;
    esac
    case $(argument vnfs.on_failure) in
        reboot | local) [ "$1" -ge "$tries" ] ;;
        *) return 1 ;;
    esac
}

# network: one interface with an address, however long that takes, unless the site wants otherwise.
network() {
    wait_for_hardware "$(wanted_interface)" || explain_hardware
    round=1
    while ! try_network $round; do
        # shellcheck disable=SC2046  # words on purpose
        why=$(describe $(list_interfaces))
        if give_up_after $round; then
            tell "no network after $round tries: $why; starting anew, as vnfs.on_failure says"
            sleep 3
            reboot -f
        fi
        tell "no network yet, try $round: $why; again in 3 s"
        round=$((round + 1))
        sleep 3
        load_drivers
    done
}

# leave_network: what the next root finds is untouched: no address, no VLAN, no client. And no link:
# an interface that is up cannot be renamed by the capsule.
leave_network() {
    for name in $(list_interfaces); do
        release "$name"
        ip link set dev "$name" down
    done
}
