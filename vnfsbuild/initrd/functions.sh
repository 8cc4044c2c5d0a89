# shellcheck shell=sh
# What both inits share: words on every console, and the way from layers to a running root.
# The capsule's init calls enter_capsule after a kexec, the bootstrap's for a pivot.

# Whoever reads this file says where told lines are kept (VNFS_LOG) and which file has words beside
# the kernel's command line (VNFS_WORDS); neither must exist.

# tell WORD...: one plain line on every console that the kernel uses, and in the log.
tell() {
    keep "$*"
    read -r consoles 2>/dev/null </sys/class/tty/console/active || consoles=console
    for console in $consoles; do
        { echo "vnfs: $*" >"/dev/$console"; } 2>/dev/null
    done
}

# keep LINE: put it into the log, with the seconds since the kernel started.
keep() {
    [ -n "$VNFS_LOG" ] || return 0
    read -r uptime _rest 2>/dev/null </proc/uptime || uptime='?'
    { echo "$uptime $1" >>"$VNFS_LOG"; } 2>/dev/null
    return 0
}

# trace WORD...: as tell, but on the consoles only when vnfs.debug asks for it.
trace() {
    if [ -n "$(argument vnfs.debug)" ]; then tell "debug: $*"; else keep "debug: $*"; fi
}

# argument NAME: print the value of NAME= in the file of words, or else on the kernel's command line;
# the last one counts. A NAME without a value is printed as 1.
argument() {
    # Called in $(…), so this changes nothing outside.
    set -f
    value=
    line=
    [ ! -f "$VNFS_WORDS" ] || while read -r words; do line="$line $words"; done <"$VNFS_WORDS"
    read -r given </proc/cmdline
    for word in $given $line; do
        case $word in
            "$1") value=1 ;;
            "$1="*) value=${word#*=} ;;
        esac
    done
    echo "$value"
}

# fail WORD...: say what is wrong and reboot, after as long as panic= says; 0 is never.
# Process 1 must not end: the kernel would panic, with a screenful that hides the reason.
fail() {
    tell "FAILED: $*"
    seconds=$(argument panic)
    case $seconds in
        '' | *[!0-9]*) seconds=30 ;;
    esac
    while [ "$seconds" -eq 0 ]; do
        sleep 60
        tell "FAILED: $* (panic=0 on the command line: no reboot)"
    done
    tell "reboot in $seconds s"
    sleep "$seconds"
    reboot -f
    while :; do sleep 60; done
}

# tmpfs_options: print how the file system that takes the root's changes is mounted. vnfs.tmpfs= is
# the most that it may take, as 50% or 2g; without it the kernel's limit counts: half the memory.
tmpfs_options() {
    limit=$(argument vnfs.tmpfs)
    number=${limit%[%kKmMgG]}
    case $number in
        '') ;;
        *[!0-9]* | 0*) tell "vnfs.tmpfs=$limit: found no size, expected as 50% or 2g: ignored" ;;
        *)
            echo "mode=0755,size=$limit"
            return
            ;;
    esac
    echo "mode=0755"
}

# mount_union DIRECTORY ROOT: DIRECTORY/layers/NN-NAME.FORMAT, the lowest number undermost, and a
# tmpfs on top, as one file system at ROOT. The layers stay compressed, as files in memory.
mount_union() {
    lower=
    for layer in "$1"/layers/*; do
        [ -f "$layer" ] || fail "$1/layers: found nothing, expected the capsule's layers"
        name=${layer##*/}
        trace "layer $name"
        mkdir -p "/union/${name%.*}"
        mount -t "${name##*.}" -o ro,loop "$layer" "/union/${name%.*}" ||
            fail "layer $name: cannot be mounted"
        lower=/union/${name%.*}${lower:+:$lower}
    done
    mkdir -p /union/upper "$2"
    options=$(tmpfs_options)
    trace "tmpfs for changes: $options"
    mount -t tmpfs -o "$options" tmpfs /union/upper || fail "no memory for a tmpfs ($options)"
    mkdir /union/upper/files /union/upper/work
    # The root's own mode is what the upper directory says.
    chmod "$(stat -c %a "${lower%%:*}")" /union/upper/files
    mount -t overlay vnfs "$2" \
        -o "lowerdir=$lower,upperdir=/union/upper/files,workdir=/union/upper/work" ||
        fail "the layers cannot be joined: $lower"
}

# lay_over TAR ROOT: lay the node's own files over ROOT. It happens inside, by the busybox that
# enter_capsule put there, so that paths go through the links of ROOT.
lay_over() {
    mkdir "$2/run/vnfs/overlay" || fail "overlay: no room to unpack"
    said=$(umask 0 && tar -x -p -f "$1" -C "$2/run/vnfs/overlay" 2>&1) || fail "overlay: $said"
    cp /usr/lib/vnfs/lay-over.sh "$2/run/vnfs/" || fail "overlay: no room"
    said=$(chroot "$2" /run/vnfs/busybox sh /run/vnfs/lay-over.sh 2>&1) || fail "overlay: $said"
    rm -rf "$2/run/vnfs/overlay" "$2/run/vnfs/lay-over.sh"
}

# enter_capsule DIRECTORY: become the system whose layers/, overlay.tar, node.json and site/ are in
# DIRECTORY. Does not return.
enter_capsule() {
    root=/newroot
    mount_union "$1" $root
    [ -d $root/run ] || fail "the capsule has no directory /run"
    mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs $root/run || fail "no memory for /run"
    mkdir $root/run/vnfs
    cp /bin/busybox $root/run/vnfs/ || fail "no memory for /run"
    for name in site node.json bootstrap.log boot; do
        # Modes are kept: node.json is 0600.
        [ ! -e "$1/$name" ] || cp -a "$1/$name" $root/run/vnfs/ || fail "no room for $name"
    done
    [ ! -f "$1/overlay.tar" ] || lay_over "$1/overlay.tar" $root
    init=$(argument init)
    init=${init:-/sbin/init}
    chroot $root /run/vnfs/busybox test -x "$init" || fail "the capsule has no program $init"
    rm $root/run/vnfs/busybox
    trace "the root's own init: $init"
    [ ! -f "$VNFS_LOG" ] || cat "$VNFS_LOG" >>$root/run/vnfs/bootstrap.log
    for place in dev proc sys; do
        mount -o move /$place $root/$place || fail "the capsule has no directory /$place"
    done
    exec switch_root $root "$init"
}
