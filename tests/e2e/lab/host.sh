#!/bin/sh
# The inside of a simulated host (host.py starts it): private namespaces, private state, nothing written to the machine.
#   host.sh boot             join the cgroups named in CNIE_CGROUPS, then unshare (CNIE_UNSHARE) and go on with `init`
#   host.sh init             mount what is private, print the anchor's pid as the machine sees it, stay
#   host.sh enter PID CMD…   join the cgroups and namespaces of a booted host and run CMD
# shellcheck disable=SC2086  # CNIE_CGROUPS and CNIE_UNSHARE are lists
set -eu
me=$0 verb=$1
shift

join_cgroups() {
    for procs in ${CNIE_CGROUPS:-}; do echo $$ >"$procs"; done
}

mount_proc_and_cgroups() {
    mount -t proc proc /proc
    v1=$(awk '$3 == "cgroup" && $2 ~ "^/sys/fs/cgroup/" {print $2}' "$lab/mounts" | sort -u)
    v2=$(awk '$3 == "cgroup2" {print $2; exit}' "$lab/mounts")
    if [ -z "$v1" ]; then
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
        return
    fi
    mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
    for dir in $v1; do
        case ${dir##*/} in systemd) what=none,name=systemd ;; *) what=${dir##*/} ;; esac
        mkdir -p "$dir"
        mount -t cgroup -o "$what" cgroup "$dir"
    done
    [ -z "$v2" ] || { mkdir -p "$v2"; mount -t cgroup2 cgroup2 "$v2"; }
}

case $verb in
boot)
    join_cgroups
    exec unshare $CNIE_UNSHARE --propagation private sh "$me" init
    ;;
init)
    read -r anchor _ </proc/self/stat # still the machine's /proc, so the machine's number
    lab=$CNIE_LAB                     # an empty directory of ours: the tmpfs on it goes when the namespace goes
    mount -t tmpfs -o mode=755 tmpfs "$lab"
    mkdir -p "$lab/plugins"
    mount --bind "$CNIE_PLUGINS" "$lab/plugins"
    mount -o remount,bind,ro "$lab/plugins"
    cat /proc/mounts >"$lab/mounts"
    mount -t sysfs sysfs /sys
    case $CNIE_UNSHARE in *--pid*) hostname cnie; mount_proc_and_cgroups ;; esac
    for dir in etc opt var; do
        mkdir -p "$lab/$dir/up" "$lab/$dir/work"
        mount -t overlay -o "lowerdir=/$dir,upperdir=$lab/$dir/up,workdir=$lab/$dir/work" overlay "/$dir"
    done
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -p /run/lock /run/netns /opt/cni/bin /etc/cni/net.d
    for dir in var/lib/cni var/lib/containerd var/lib/containers var/log/pods; do
        mkdir -p "/$dir" "$lab/state/$dir" # a runtime's own overlays cannot lie on an overlay
        mount --bind "$lab/state/$dir" "/$dir"
    done
    rm -rf /etc/cni/net.d/*
    mount --bind "$lab/plugins" /opt/cni/bin
    mount --make-rshared / # runtimes want shared propagation; it stays private to this mount namespace
    ip link set lo up
    echo "$anchor"
    exec >/dev/null
    while :; do
        sleep 3600 &
        wait $! || true
    done
    ;;
enter)
    anchor=$1
    shift
    join_cgroups
    exec nsenter -t "$anchor" --mount --uts --ipc --net --pid --cgroup -- "$@"
    ;;
esac
