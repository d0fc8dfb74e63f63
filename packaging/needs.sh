#!/bin/sh
# Checks that the machine has what make targets need: `needs.sh TARGET…`.
#
# Looks for programs, headers and libraries, not for packages: it does not matter how they were installed, and where all
# is there it takes 50 ms. As root on Debian and Ubuntu it installs what is missing. Elsewhere it fails at once with the
# one command to run. It is POSIX sh and starts no program but those of the table, as any other may be missing.
set -eu
cd "${0%/*}/.."
lowest=3.11.2 # also in pyproject.toml; tests/e2e/test_fresh_machine.py tries it

# "@" is the version of the interpreter; "-" means that no package is known.
#   what                for                   Debian, Ubuntu              Fedora          Alpine
table='
    python3             all                   python3                     python3         python3
    venv                all                   python@-venv                python3         python3
    libpython           freeze                libpython@                  python3-libs    python3
    objdump             freeze                binutils                    binutils        binutils
    cc                  freeze,test           gcc                         gcc             gcc
    headers             freeze,test           libc6-dev                   glibc-devel     musl-dev
    unshare             test,demo             util-linux                  util-linux      util-linux
    nsenter             test,demo             util-linux                  util-linux      util-linux
    ip                  test,overlay          iproute2                    iproute         iproute2
    bridge              test                  iproute2                    iproute         iproute2
    tc                  test                  iproute2                    iproute-tc      iproute2-tc
    conntrack           test                  conntrack                   conntrack-tools conntrack-tools
    nft                 test                  nftables                    nftables        nftables
    ping                test                  iputils-ping                iputils         iputils
    iptables-restore    test                  iptables                    iptables-nft    iptables
    mount               test                  mount                       util-linux      util-linux
    make                e2e                   make                        make            make
    git                 e2e                   git                         git             git
    debootstrap         e2e                   debootstrap                 debootstrap     debootstrap
    setpriv             e2e                   util-linux                  util-linux      setpriv
    sysctl              e2e                   procps                      procps-ng       procps-ng
    modprobe            e2e                   kmod                        kmod            kmod
    containerd          e2e                   containerd                  -               -
    ctr                 e2e                   containerd                  -               -
    runc                e2e                   runc                        runc            runc
    podman              e2e                   podman                      podman          podman
    conmon              e2e                   conmon                      conmon          conmon
    static-busybox      e2e                   busybox-static              -               busybox-static
    /lib/ld-musl-x86_64.so.1 e2e              musl                        -               musl
    /usr/lib/cni/bridge e2e,bench             containernetworking-plugins -               -
    systemd-analyze     e2e                   systemd                     systemd         -
    vtysh               e2e                   frr                         frr             frr
    dbus-daemon         e2e                   dbus                        dbus-daemon     dbus
    firewalld           e2e                   firewalld                   firewalld       firewalld
    qemu-system-x86_64  e2e                   qemu-system-x86             qemu-system-x86 qemu-system-x86_64
    kernel              e2e                   linux-image-cloud-amd64     -               -
    openssl             e2e                   openssl                     openssl         openssl
    java                e2e                   default-jre-headless        java-latest-openjdk-headless openjdk17-jre-headless
    mvn                 e2e                   maven                       maven           maven
'

want() {
    case $1 in
    test | test-integration) echo test ;;
    freeze | install | dist/*) echo freeze ;;
    demo) echo freeze demo ;;
    demo-overlay) echo freeze demo overlay ;;
    test-e2e) echo freeze test e2e ;;
    bench) echo freeze test bench ;;
    esac
}

# Prints the version of Python, where it is installed, and which of `old`, `venv`, `libpython` is wrong. The library is
# looked for where PyInstaller does: for a Python that was built without one, another Python's is of no use.
probe="
import importlib.util, os, sys, sysconfig
said = ['%d.%d' % sys.version_info[:2], sys.base_prefix]
if sys.version_info < tuple(map(int, '$lowest'.split('.'))):
    said.append('old')
if not all(map(importlib.util.find_spec, ('venv', 'ensurepip'))):
    said.append('venv')
shared = sysconfig.get_config_var('Py_ENABLE_SHARED')
library = sysconfig.get_config_var('INSTSONAME') if shared else 'libpython%s.so.1.0' % said[0]
if not any(os.path.exists(os.path.join(sys.base_prefix, part, library)) for part in ('', 'lib')):
    try:
        import ctypes
        ctypes.CDLL(library if shared else '/nowhere')
    except (ImportError, OSError):
        said.append('libpython')
print(*said)
"

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

is_wanted() {
    for purpose in all $wanted; do
        case ",$1," in *",$purpose,"*) return 0 ;; esac
    done
    return 1
}

has() {
    case $1 in
    python3) case "$said " in ' ' | *' old '*) return 1 ;; esac ;;
    venv) [ -x .venv/bin/pip ] || case "$said " in ' ' | *' venv '*) return 1 ;; esac ;;
    libpython) case "$said " in ' ' | *' libpython '*) return 1 ;; esac ;;
    cc) command -v "${CC:-cc}" ;;
    headers) echo '#include <stdio.h>' | "${CC:-cc}" -E - ;;
    ip) ip -json link show lo ;; # busybox has one without -json
    static-busybox) command -v busybox && ! ldd "$(command -v busybox)" ;;
    kernel)
        for image in /boot/vmlinuz-*; do
            [ ! -d "/lib/modules/${image#*-}" ] || return 0
        done
        return 1
        ;;
    /*) [ -e "$1" ] ;;
    *) command -v "$1" ;;
    esac
}

# Sets `missing`, and `packages` as they are called where $1 installs them.
look() {
    missing='' packages=''
    said=$("$python" -ISc "$probe" 2>/dev/null) || said=
    version=${said%% *}
    while read -r what purposes apt dnf apk; do
        is_wanted "$purposes" || continue
        ! has "$what" >/dev/null 2>&1 || continue
        missing="$missing${missing:+, }$what"
        case $1 in apt-get) package=$apt ;; dnf) package=$dnf ;; apk) package=$apk ;; *) package=- ;; esac
        case $package in
        libpython@) package=libpython${version:-3-dev} ;; # without a version: a package that brings the right one
        *@*) package=${package%@*}${version:-3}${package#*@} ;;
        esac
        case " - $packages " in *" $package "*) ;; *) packages="$packages${packages:+ }$package" ;; esac
    done <<END
$table
END
}

# Fails for an interpreter that no package completes.
judge() {
    case "$said " in
    ' ') [ "$python" = python3 ] || fail "$who: $python does not run" ;;
    *' old '*) fail "$who: Python $lowest or newer is needed, $python is $version: choose another with PYTHON=…" ;;
    *' /usr '*) ;; # the distribution's
    *)
        for part in venv libpython; do
            case ", $missing," in *", $part,"*) ;; *) continue ;; esac
            fail "$who: $python has no $part, and packages complete only the distribution's own Python." \
                "Choose that with PYTHON=/usr/bin/python3, or build this one with ensurepip and --enable-shared."
        done
        ;;
    esac
}

install() {
    export DEBIAN_FRONTEND=noninteractive
    # The lists of packages may be missing or old.
    # shellcheck disable=SC2086  # one word for each package
    said=$($command 2>&1) || said=$(apt-get update 2>&1 && $command 2>&1) || fail "$said" "$who: failed: $command"
}

who="make $*" wanted=$(for target; do want "$target"; done) user=$(id -u)
python=${PYTHON:-python3}
[ ! -x .venv/bin/pip ] || python=.venv/bin/python
for manager in apt-get dnf apk ''; do
    ! command -v "$manager" >/dev/null || break
done
for round in first second last; do # as long as Python is missing, we do not know what belongs to its version
    look "$manager"
    [ -n "$missing" ] || break
    judge
    case $manager in
    apt-get) command="apt-get install -y --no-install-recommends $packages" ;;
    dnf) command="dnf install -y $packages" ;;
    apk) command="apk add $packages" ;;
    esac
    [ -n "$packages" ] || fail "$who: not installed: $missing"
    case $manager$user$round in
    apt-get0first | apt-get0second) ;;
    *) fail "$who: not installed: $missing. As root, run:" "$command" ;;
    esac
    echo "$who: not installed: $missing. Running $command"
    install
done

# All that a user other than root runs as root, it runs in a user namespace.
if [ "$user" != 0 ] && { is_wanted test || is_wanted demo; } && ! unshare -rmn true 2>/dev/null; then
    fail "$who: this user may not create user namespaces; run it as root"
fi
