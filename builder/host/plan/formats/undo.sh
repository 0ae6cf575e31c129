# ROOT, KERNEL and LIVE as for the script that made the changes.
ROOT=${ROOT:-}
ROOT=${ROOT%/}
KERNEL=${KERNEL:-}
if [ -z "${LIVE:-}" ]; then
    if [ -z "$ROOT" ]; then LIVE=yes; else LIVE=no; fi
fi
STATE=$ROOT/var/lib/imgbuild/host-plan

say() { printf '%s\n' "$*"; }

if [ -z "$ROOT" ] && [ "$(id -u)" -ne 0 ]; then
    say 'this changes the system: run it as root, or with ROOT=FOLDER' >&2
    exit 1
fi
if [ ! -d "$STATE" ]; then
    say 'nothing to undo'
    exit 0
fi

# The lines of a list, the last first.
last_first() {
    [ ! -f "$STATE/$1" ] || sed -n '1!G;h;$p' "$STATE/$1"
}

# Whether a file is what the plan has written; else somebody has changed it since.
is_ours() {
    [ -e "$ROOT$1" ] && cmp -s "$ROOT$1" "$STATE/written$1"
}

# Remove what the plan has installed, and nothing that needs it: dpkg and rpm refuse that, where apt,
# dnf and zypper would remove it, too.
removed() {
    case $MANAGER in
        apt) DEBIAN_FRONTEND=noninteractive xargs dpkg --purge < "$STATE/packages" ;;
        *)
            xargs rpm -e < "$STATE/packages" 2> /dev/null && return 0
            more=yes
            while [ "$more" = yes ]; do
                more=no
                while read -r one; do
                    if rpm -q "$one" > /dev/null 2>&1 && rpm -e "$one" 2> /dev/null; then more=yes; fi
                done < "$STATE/packages"
            done
            ! xargs -n 1 rpm -q < "$STATE/packages" > /dev/null 2>&1
            ;;
    esac
}

# Whether systemd runs here: sd_booted(3).
booted() { [ -d "$KERNEL/run/systemd/system" ]; }

if [ "$LIVE" = yes ]; then
    if booted; then
        last_first started | while read -r unit; do
            say "systemctl stop $unit"
            systemctl stop "$unit" || say "$unit: left as it is"
        done
    fi
    last_first units | while read -r unit; do
        say "systemctl disable $unit"
        systemctl disable "$unit" || say "$unit: left as it is"
    done
fi
last_first created | while read -r path; do
    if is_ours "$path"; then
        rm -f "$ROOT$path"
        say "removed $path"
    elif [ -e "$ROOT$path" ]; then
        say "left alone, changed since: $path"
    fi
done
if [ -d "$STATE/kept" ]; then
    (cd "$STATE/kept" && find . -type f) | while read -r path; do
        path=${path#.}
        if is_ours "$path"; then
            cp -p "$STATE/kept$path" "$ROOT$path"
            say "restored $path"
        else
            say "left alone, changed since: $path; it was $(cksum < "$STATE/kept$path")"
        fi
    done
fi
if [ "$LIVE" = yes ]; then
    last_first live | while IFS='=' read -r path value; do
        [ -e "$KERNEL$path" ] || continue
        if printf '%s\n' "$value" > "$KERNEL$path"; then say "$path is $value again"; fi
    done
    if booted && [ -f "$STATE/units" ]; then systemctl daemon-reload; fi
    last_first undo | while read -r command; do
        say "$command"
        sh -c "$command" < /dev/null || say "it failed: $command"
    done
    if [ -f "$STATE/packages" ]; then
        say "removing packages: $(tr '\n' ' ' < "$STATE/packages")"
        removed || say 'packages that others need were left'
    fi
else
    for list in units started live undo packages; do
        [ ! -f "$STATE/$list" ] || say "left: $list, which need the running system"
    done
fi
above=$(last_first folders)
rm -rf "$STATE"
for folder in $above; do
    [ ! -d "$ROOT$folder" ] || rmdir "$ROOT$folder" 2> /dev/null || :
done
say 'undone; what is read at boot is as before after a reboot'
