# shellcheck shell=sh
# Runs inside the new root: lays the files below /run/vnfs/overlay over it.
#
# A directory of the root stays what it is, with owner and mode; so does a link to a directory.
# Files and links of the root are replaced. What would put a file where the root has a directory, or
# the other way round, is refused: that overlay was made for another capsule.

busybox=/run/vnfs/busybox
from=/run/vnfs/overlay

refuse() {
    echo "$1: found $2 in the capsule, expected $3"
    exit 1
}

cd $from || exit 1
"$busybox" find . | while IFS= read -r path; do
    path=${path#.}
    if [ -z "$path" ]; then
        continue
    elif [ -d "$from$path" ] && [ ! -L "$from$path" ]; then
        [ -d "$path" ] && continue
        [ -e "$path" ] || [ -L "$path" ] && refuse "$path" "no directory" "one"
        "$busybox" mkdir "$path" &&
            "$busybox" chown "$("$busybox" stat -c %u:%g "$from$path")" "$path" &&
            "$busybox" chmod "$("$busybox" stat -c %a "$from$path")" "$path" || exit 1
    else
        [ -d "$path" ] && refuse "$path" "a directory" "none"
        "$busybox" rm -f "$path" && "$busybox" cp -a "$from$path" "$path" || exit 1
    fi
done
