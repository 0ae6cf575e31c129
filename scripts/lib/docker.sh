# shellcheck shell=bash
# Docker Engine >= 23 (BuildKit is its default builder) with buildx.

docker_pid=/run/imgbuild-dockerd.pid

# What counts is the daemon: a host may have a client alone, of any version, anywhere in PATH.
have_docker() {
    version_at_least "$(docker_server || first_version dockerd --version)" 23 && docker buildx version >/dev/null 2>&1
}

# The version of the daemon that answers.
docker_server() { timeout 10 docker version --format '{{.Server.Version}}' 2>/dev/null | grep .; }

docker_answers() { docker_server >/dev/null; }

install_docker() {
    local packages=(docker.io docker-buildx)
    need_admin "sudo ${here:?}/engines.sh install docker" "sudo dnf install -y moby-engine docker-buildx"
    suite_has_docker || add_newer_suite
    # Debian packages the client by itself since 13; elsewhere docker.io carries it.
    [ -z "$(apt_candidate docker-cli)" ] || packages+=(docker-cli)
    if has_systemd; then apt_install "${packages[@]}"; else without_service_start apt_install "${packages[@]}"; fi
}

has_systemd() { [ -d /run/systemd/system ]; }

suite_has_docker() { version_at_least "$(apt_candidate docker.io)" 23 && [ -n "$(apt_candidate docker-buildx)" ]; }

# Docker's own packages, and nothing else, may come from the next stable suite: they run on this one's libc and runc.
add_newer_suite() {
    local next
    case $(os_codename) in
        bookworm) next=trixie ;;
        *) fail "no docker >= 23 with docker-buildx among this system's packages, and no newer suite is known to fit" ;;
    esac
    say "taking docker from Debian $next, pinned to its packages"
    need_debian_keyring
    # The pins first: at no moment may the newer suite be open to all packages.
    cat >/etc/apt/preferences.d/imgbuild-docker <<-END
	Package: docker.io docker-cli docker-buildx containerd
	Pin: release n=$next
	Pin-Priority: 900

	Package: *
	Pin: release n=$next
	Pin-Priority: -1
	END
    cat >/etc/apt/sources.list.d/imgbuild-docker.sources <<-END
	Types: deb
	URIs: $(debian_mirror)
	Suites: $next
	Components: main
	Signed-By: ${debian_keyring:?}
	END
    logged apt_get update
}

start_docker() {
    docker_answers && return
    have dockerd || fail "docker: no dockerd; first: engines.sh install docker"
    is_root || need_admin "$(docker_user_command)" "$(docker_user_command)"
    say "starting docker"
    if has_systemd; then logged systemctl start docker; else launch_docker; fi
    wait_until docker_answers || { tail -n 15 "${state:?}/dockerd.log" >&2; fail "docker: the daemon does not answer"; }
}

docker_user_command() {
    if [ -S /var/run/docker.sock ]; then
        printf 'sudo usermod -aG docker %s # and log in again\n' "$(id -un)"
    else
        printf 'sudo %s/engines.sh start docker\n' "${here:?}"
    fi
}

# A host's own daemon.json is respected. Without one, images go to containerd's store (Docker 29's default): only there can a
# build write an OCI archive, which the same digest twice needs (https://docs.docker.com/build/exporters/oci-docker/).
launch_docker() {
    local config=/etc/docker/daemon.json
    mkdir -p "$state"
    if [ ! -e "$config" ]; then
        config=$state/dockerd.json
        printf '{"features": {"containerd-snapshotter": true}}\n' >"$config"
    fi
    # Containers inherit the daemon's limits. No default-ulimits: a host that lacks CAP_SYS_RESOURCE starts containers with the
    # inherited ones, and fails with any that are higher.
    our_docker_runs || rm -f "$docker_pid" # a killed daemon leaves it, and the next one believes it
    ulimit -n "$(ulimit -Hn)"
    setsid dockerd --config-file "$config" --pidfile "$docker_pid" </dev/null >"$state/dockerd.log" 2>&1 &
}

stop_docker() {
    our_docker_runs || { say "docker: no daemon of ours runs"; return; }
    say "stopping docker"
    kill "$(cat "$docker_pid")"
    wait_until our_docker_is_gone || fail "docker: the daemon does not stop"
}

# By the program that it runs: a number may be somebody else's by now, or a killed daemon's that nobody has reaped.
our_docker_runs() {
    [ -e "$docker_pid" ] || return
    case $(readlink "/proc/$(cat "$docker_pid")/exe") in */dockerd*) true ;; *) false ;; esac
}

our_docker_is_gone() { ! our_docker_runs; }
