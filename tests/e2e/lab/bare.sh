#!/bin/sh
# The first process of a bare machine (bare.py starts it in namespaces of its own): `bare.sh ROOT COMMAND…`.
set -eu
root=$1
shift
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
for device in null zero full random urandom tty; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/dev/shm" "$root/run/lock"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
cd "$root"
mkdir -p .machine
pivot_root . .machine
cd /
umount -l /.machine
# Not exec: this process waits for what others leave behind, as an init does. A session of its own: a process group
# from outside has the number 0 here, and kill(0) does not mean that one.
status=0
setsid -w "$@" || status=$?
exit "$status"
