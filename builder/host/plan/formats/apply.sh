# ROOT:   the system to change, "" for this one. Below another folder only files are changed.
# KERNEL: a folder in place of the running system's /proc, /sys and /run, to try this out.
# LIVE:   whether the kernel is told and commands are run; "no" where ROOT is another folder.
ROOT=${ROOT:-}
ROOT=${ROOT%/}
KERNEL=${KERNEL:-}
if [ -z "${LIVE:-}" ]; then
    if [ -z "$ROOT" ]; then LIVE=yes; else LIVE=no; fi
fi
STATE=$ROOT/var/lib/imgbuild/host-plan
id='' title='' announced=0 waits=0 steps=0 boots=0

say() { printf '%s\n' "$*"; }

if [ -z "$ROOT" ] && [ "$(id -u)" -ne 0 ]; then
    say 'this changes the system: run it as root, or with ROOT=FOLDER' >&2
    exit 1
fi

# A step begins: nothing of it has been changed yet.
step() {
    settled
    id=$1 title=$2 announced=0 waits=0
}

# A step came to its end; what was left out of it waits for a run that may do it.
settled() {
    [ -z "$id" ] || [ "$waits" -eq 1 ] || rm -f "$STATE/pending/$id"
}

# Whether a file of this step has changed, now or in a run that ended before all was done.
is_due() { [ -e "$STATE/pending/$id" ]; }

# Something of this step is not as it should be; what is there is kept from here on.
announce() {
    if [ "$announced" -eq 0 ]; then
        say "$id: $title"
        announced=1
        steps=$((steps + 1))
    fi
    if [ ! -d "$STATE" ]; then
        above=$(missing /var/lib/imgbuild/host-plan/state)
        mkdir -p "$STATE"
        [ -z "$above" ] || say "$above" > "$STATE/folders"
    fi
}

left_out() { say "$id: left out: $1"; }

# Whether systemd runs here: in a chroot or a container its units can be enabled, and not started.
# Source: sd_booted(3).
booted() { [ -d "$KERNEL/run/systemd/system" ]; }

# Folders above a file that are not there, the outermost first.
missing() {
    folder=${1%/*} found=''
    while [ -n "$folder" ] && [ ! -d "$ROOT$folder" ]; do
        found="$folder${found:+
$found}"
        folder=${folder%/*}
    done
    [ -z "$found" ] || say "$found"
}

folders() {
    above=$(missing "$1")
    [ -n "$above" ] || return 0
    say "$above" >> "$STATE/folders"
    mkdir -p "$ROOT${1%/*}"
}

noted() { [ -f "$STATE/$1" ] && grep -qxF -- "$2" "$STATE/$1"; }

note() { noted "$1" "$2" || printf '%s\n' "$2" >> "$STATE/$1"; }

# Keep what a file was before the first change.
keep() {
    if [ -e "$STATE/kept$1" ] || noted created "$1"; then return 0; fi
    if [ -e "$ROOT$1" ]; then
        mkdir -p "$STATE/kept${1%/*}"
        cp -p "$ROOT$1" "$STATE/kept$1"
    else
        note created "$1"
    fi
}

# What it is after a change: undo leaves alone what somebody has changed since.
written() {
    mkdir -p "$STATE/written${1%/*}"
    [ ! -e "$ROOT$1" ] || cp -p "$ROOT$1" "$STATE/written$1"
}

# put PATH MODE: a file, its content from standard input.
put() {
    content=$(cat && printf .)
    content=${content%.}
    if [ -f "$ROOT$1" ] && printf '%s' "$content" | cmp -s - "$ROOT$1"; then return 0; fi
    announce
    mkdir -p "$STATE/pending"
    : > "$STATE/pending/$id"
    folders "$1"
    keep "$1"
    printf '%s' "$content" > "$ROOT$1.imgbuild"
    chmod "$2" "$ROOT$1.imgbuild"
    mv -f "$ROOT$1.imgbuild" "$ROOT$1"
    written "$1"
}

# said KEY FILE: what a file of sysctl.d sets a variable to.
said() { sed -n "s|^ *$(printf %s "$1" | sed 's|\.|[./]|g') *= *||p" "$2" | sed -n '$p'; }

# read_later FILE: say which files set variables of FILE otherwise and are read after it, at boot or
# by `sysctl --system`. Source: sysctl.d(5), and sysctl(8), which reads /etc/sysctl.conf last.
read_later() {
    sed -n 's/^\([a-z0-9_.-]*\) = .*/\1/p' "$ROOT$1" | while read -r key; do
        for file in "$ROOT"/usr/lib/sysctl.d/*.conf "$ROOT"/etc/sysctl.d/*.conf "$ROOT/etc/sysctl.conf"; do
            case $file in "$ROOT$1" | */99-sysctl.conf) continue ;; esac # Debian's link to sysctl.conf
            [ -f "$file" ] || continue
            first=$(printf '%s\n%s\n' "${1##*/}" "${file##*/}" | LC_ALL=C sort | sed -n 1p)
            [ "$first" = "${1##*/}" ] || continue
            other=$(said "$key" "$file")
            case $other in '' | "$(said "$key" "$ROOT$1")") continue ;; esac
            say "$id: ${file#"$ROOT"} is read later and sets $key to $other: take that line out"
        done
    done
}

# live PATTERN VALUE: files of the running kernel.
live() {
    if [ "$LIVE" = no ]; then
        left_out "$1 is the running kernel's"
        return 0
    fi
    here=0
    # The pattern is to be expanded.
    # shellcheck disable=SC2086
    for file in $KERNEL$1; do
        [ -e "$file" ] || continue
        here=1
        # The kernel has files that cannot be read now, as those of a CPU that is being taken away.
        old=$(cat "$file" 2> /dev/null) || continue
        case $old in "$2" | *"[$2]"*) continue ;; esac
        announce
        path=${file#"$KERNEL"}
        if ! { [ -f "$STATE/live" ] && grep -qF -- "$path=" "$STATE/live"; }; then
            case $old in *'['*) old=${old#*'['} old=${old%%']'*} ;; esac
            printf '%s=%s\n' "$path" "$old" >> "$STATE/live"
        fi
        if ! printf '%s\n' "$2" > "$file"; then left_out "the kernel refuses $2 in $path"; fi
    done
    [ "$here" -eq 1 ] || left_out "$1 is not here"
}

# run CHECK COMMAND UNDO FILE: a command where CHECK fails; without one, where a file has changed.
run() {
    if [ "$LIVE" = no ]; then
        left_out "it needs the running system: $2"
        waits=1
        return 0
    fi
    if [ -n "$1" ]; then
        if sh -c "$1" > /dev/null 2>&1; then return 0; fi
    elif ! is_due; then
        return 0
    fi
    # As update-grub where another boot loader is: the rest of the plan does not need it.
    if ! command -v "${2%% *}" > /dev/null; then
        left_out "there is no ${2%% *} here: $2"
        waits=1
        return 0
    fi
    announce
    if [ -n "$4" ]; then
        folders "$4"
        keep "$4"
    fi
    say "  $2"
    bringing sh -c "$2"
    [ -z "$4" ] || written "$4"
    [ -z "$3" ] || note undo "$3"
}

# unit NAME: a unit of systemd, to be enabled and started.
unit() {
    if [ "$LIVE" = no ]; then
        left_out "it needs the running system: systemctl enable --now $1"
        waits=1
        return 0
    fi
    if booted && is_due; then systemctl daemon-reload; fi
    # It reads files alone, so that it answers where systemd does not run, too.
    case $(systemctl is-enabled "$1" 2> /dev/null || :) in
        '' | not-found)
            left_out "$1 is not installed"
            return 0
            ;;
        masked*)
            left_out "$1 is masked: somebody does not want it"
            return 0
            ;;
    esac
    if ! systemctl is-enabled --quiet "$1"; then
        announce
        say "  systemctl enable $1"
        note units "$1"
        if ! systemctl enable "$1" < /dev/null; then
            left_out "systemd does not enable $1"
            return 0
        fi
    fi
    booted || return 0
    if systemctl is-active --quiet "$1"; then
        if is_due; then systemctl restart "$1" < /dev/null; fi
        return 0
    fi
    announce
    say "  systemctl start $1"
    note started "$1"
    # What needs the driver that this plan has installed starts with the next boot.
    systemctl start "$1" < /dev/null || left_out "$1 does not start now: journalctl -u $1"
}

# Packages that are there, one a line, those too that are not configured since something failed.
installed() {
    case $MANAGER in
        apt)
            dpkg-query -W -f='${db:Status-Status} ${binary:Package}\n' |
                sed -n '/^not-installed /d; /^config-files /d; s/^[^ ]* //p'
            ;;
        dnf | zypper) rpm -qa --qf '%{NAME}.%{ARCH}\n' | grep -v '^gpg-pubkey' || : ;;
    esac
}

# bringing COMMAND...: note the packages that come with it, whatever asked for them, even where it
# fails halfway. A script that comes by a pipe is not the command's to read.
bringing() {
    code=0
    installed > "$STATE/before"
    "$@" < /dev/null || code=$?
    installed | grep -vxF -f "$STATE/before" >> "$STATE/packages" || :
    rm -f "$STATE/before"
    [ -s "$STATE/packages" ] || rm -f "$STATE/packages"
    return "$code"
}

version() {
    case $MANAGER in
        apt)
            dpkg-query -W -f='${db:Status-Status} ${Version}\n' "$1" 2> /dev/null |
                sed -n 's/^installed //p'
            ;;
        *) rpm -q --qf '%{VERSION}\n' "$1" 2> /dev/null | grep -v ' ' || : ;;
    esac
}

install_now() {
    case $MANAGER in
        apt) apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y "$@" ;;
        dnf) dnf -y install "$@" ;;
        zypper) zypper --non-interactive --gpg-auto-import-keys install "$@" ;;
    esac
}

# packages NAME[>=VERSION]...: what is not there, or older.
packages() {
    if [ "$LIVE" = no ]; then
        left_out "it needs the running system: packages $*"
        return 0
    fi
    wanted=''
    for one in "$@"; do
        name=${one%%'>='*}
        least=${one#"$name"}
        least=${least#'>='}
        now=$(version "$name")
        if [ -z "$now" ]; then
            wanted="$wanted $name"
        elif [ -n "$least" ] && ! printf '%s\n%s\n' "$least" "$now" | sort -V -C; then
            wanted="$wanted $name"
        fi
    done
    [ -n "$wanted" ] || return 0
    announce
    say "  packages:$wanted"
    # Names are words.
    # shellcheck disable=SC2086
    bringing install_now $wanted
}

# The step's changes are read at boot.
boot() { [ "$announced" -eq 0 ] || boots=1; }

finish() {
    settled
    if [ "$steps" -eq 0 ]; then
        say 'nothing to change'
        return 0
    fi
    say "$steps steps have changed something; what was there is in $STATE"
    [ "$boots" -eq 0 ] || say 'reboot: what the boot loader, the driver or the card has been told is read then'
}
