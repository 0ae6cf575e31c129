# shellcheck shell=bash
# Apptainer >= 1.3: from the distribution where it has it, else Debian sid's package, made to fit an older libc.

# Without FUSE apptainer unpacks a whole image before every start.
have_apptainer() { apptainer_is_recent && device_is_open /dev/fuse; }

apptainer_is_recent() { version_at_least "$(first_version apptainer --version)" 1.3; }

install_apptainer() {
    need_admin "sudo ${here:?}/engines.sh install apptainer" "sudo dnf install -y apptainer"
    apptainer_is_recent || install_recent_apptainer
    open_device /dev/fuse
}

install_recent_apptainer() {
    local package=apptainer
    if ! version_at_least "$(apt_candidate apptainer)" 1.3; then
        fetch_apptainer
        package=$(echo "$work"/apptainer_*.deb)
    fi
    apt_install "$package" squashfuse fuse2fs fuse-overlayfs fakeroot
}

# Leaves a package that installs on this host in $work.
fetch_apptainer() {
    local needs
    say "fetching apptainer from Debian sid"
    need_debian_keyring
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    chmod 755 "$work" # apt reads a package given as a file as its own user
    configure_sid
    from_sid update
    from_sid download apptainer/sid
    needs=$(dpkg-deb -f "$work"/apptainer_*.deb Depends | sed -n 's/.*libc6 (>= \([^)]*\)).*/\1/p')
    if dpkg --compare-versions "$(dpkg-query -Wf '${Version}' libc6)" lt "${needs:-0}"; then
        say "this host's libc is older than $needs: repacking apptainer with sid's libc beside it"
        repack_apptainer
    fi
}

# A private apt: the host's own sources and pins never learn of sid.
configure_sid() {
    mkdir -p "$work/lists/partial" "$work/archives/partial"
    printf 'deb [signed-by=%s] %s sid main\n' "${debian_keyring:?}" "$(debian_mirror)" >"$work/sid.list"
    cat >"$work/apt.conf" <<-END
	Dir::State::lists "$work/lists";
	Dir::Cache "$work";
	Dir::Etc::sourcelist "$work/sid.list";
	Dir::Etc::sourceparts "/dev/null";
	Dir::Etc::preferences "/dev/null";
	Dir::Etc::preferencesparts "/dev/null";
	APT::Sandbox::User "root";
	// A site's mirror may lag behind by more than sid's few days; its signature still holds.
	Acquire::Check-Valid-Until "false";
	END
}

from_sid() { APT_CONFIG=$work/apt.conf in_work apt-get "$@"; }

in_work() { (cd "$work" && logged "$@"); }

# The newer libc is found by apptainer's own two programs only (interpreter and rpath). Containers, and the helpers that
# apptainer starts (squashfuse, mksquashfs, fakeroot), keep the libc they were built for.
repack_apptainer() {
    local tree=$work/tree patchelf=$work/patchelf/usr/bin/patchelf libc program loader
    from_sid download libc6/sid
    in_work apt-get download patchelf
    in_work dpkg-deb -R "$work"/apptainer_*.deb "$tree"
    in_work dpkg-deb -x "$work"/libc6_*.deb "$work/libc6"
    in_work dpkg-deb -x "$work"/patchelf_*.deb "$work/patchelf"
    rm "$work"/*.deb
    libc=$(echo "$tree"/usr/lib/*/apptainer)/libc
    mkdir "$libc"
    cp "$work"/libc6/usr/lib/*/*.so.* "$libc"
    for program in "$tree/usr/bin/apptainer" "${libc%/libc}/bin/starter"; do
        loader=$(basename "$("$patchelf" --print-interpreter "$program")")
        # RPATH, not RUNPATH: it must hold for the libraries' own libraries as well (libsqlite3 needs libm).
        in_work "$patchelf" --set-interpreter "${libc#"$tree"}/$loader" --force-rpath --set-rpath "${libc#"$tree"}" "$program"
    done
    # "~" sorts before sid's own version, so that an upgraded host replaces this package by the unchanged one.
    sed -i -e 's/^Version: .*/&~imgbuild1/' -e 's/libc6 (>= [^)]*), //' "$tree/DEBIAN/control"
    rm "$tree/DEBIAN/md5sums"
    in_work dpkg-deb --root-owner-group -Znone -b "$tree" "$work"
}
