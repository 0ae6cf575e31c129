# shellcheck shell=bash
# What every engine needs: messages, apt with a log, and a polite end where root or apt is lacking.

PATH=$PATH:/usr/sbin:/sbin # where iptables, runc and dockerd live; a normal user's PATH lacks it
state=${XDG_STATE_HOME:-/var/lib}/imgbuild
debian_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

say() { printf 'engines: %s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

have() {
    local command
    for command; do command -v "$command" >/dev/null || return; done
}

is_root() { [ "$(id -u)" -eq 0 ]; }

version_at_least() { [ -n "$1" ] && [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }

# The first dotted number that a command prints, or nothing where the command is missing or broken.
first_version() { "$@" 2>/dev/null | grep -oE '[0-9]+(\.[0-9]+)+' | head -n 1 || true; }

wait_until() {
    local _
    for _ in $(seq 60); do
        "$@" && return
        sleep 0.5
    done
    false
}

# need_admin APT_COMMAND DNF_COMMAND: ends with exit code 3 and the command to type, unless we are root on a host with apt.
need_admin() {
    is_root && have apt-get && return
    say "needs an administrator; type:"
    if have apt-get; then printf '%s\n' "$1"; else printf '%s\n' "$2"; fi
    exit 3
}

# Runs a command with its output in the log, and shows the log's end if it fails.
logged() {
    mkdir -p "$state"
    "$@" >"$state/engines.log" 2>&1 && return
    tail -n 15 "$state/engines.log" >&2
    fail "failed: $* (whole output: $state/engines.log)"
}

apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -y -q -o DPkg::Lock::Timeout=300 "$@"; }

# The package lists are fetched first only where they are missing or too old to install from.
apt_install() {
    say "installing ${*##*/}"
    if ! apt_get install --no-install-recommends --download-only "$@" >/dev/null 2>&1; then logged apt_get update; fi
    logged apt_get install --no-install-recommends "$@"
}

# The version, without epoch, that apt would install; nothing where it knows none.
apt_candidate() {
    have apt-cache || return 0
    if is_root && ! apt-cache show "$1" >/dev/null 2>&1; then logged apt_get update; fi
    LC_ALL=C apt-cache policy "$1" | sed -n '/(none)/d; s/^  Candidate: \([0-9]*:\)\{0,1\}//p'
}

# Packages of daemons start them; imgbuild starts its own, with its own settings.
without_service_start() {
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    "$@"
}

# The mirror that this host's own apt sources name for its suite, whatever their format; Debian's own on other systems.
debian_mirror() {
    local uri
    # shellcheck disable=SC2016  # apt expands $(REPO_URI)
    uri=$(grep -qx ID=debian /etc/os-release &&
        apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Release: $(os_codename)" | head -n 1)
    printf '%s\n' "${uri:-http://deb.debian.org/debian}"
}

need_debian_keyring() { [ -e "$debian_keyring" ] || apt_install debian-archive-keyring; }

# The suite that apt installs from: what can be installed follows it, whatever else the host calls itself.
os_codename() {
    # shellcheck disable=SC2016 # apt expands $(CODENAME)
    apt-get indextargets --format '$(CODENAME)' 'Created-By: Packages' | grep -v -- '-' | head -n 1
}

# A host without the device has nothing to open.
device_is_open() { [ ! -e "$1" ] || [ -n "$(find "$1" -perm -006)" ]; }

# Gives a device the mode that distributions give it: a minimal host leaves it to root.
open_device() {
    device_is_open "$1" && return
    say "chmod 0666 $1 (until the next boot), so that users can use it"
    chmod 0666 "$1"
}
