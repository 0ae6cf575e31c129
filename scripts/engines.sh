#!/bin/bash
# Installs and starts the engines that imgbuild builds and runs images with.
#
#   engines.sh install buildah|docker|apptainer|bootstrap|registry
#   engines.sh start|stop docker
#   engines.sh status
#
# Exit codes: 0 done, 1 failed, 2 usage, 3 an administrator must type the printed command.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/lib/common.sh
source "$here/lib/common.sh"
# shellcheck source=scripts/lib/docker.sh
source "$here/lib/docker.sh"
# shellcheck source=scripts/lib/apptainer.sh
source "$here/lib/apptainer.sh"

usage() {
    sed -n '4,6s/^# *//p' "$here/engines.sh" >&2
    exit 2
}

# runc is named although podman may have pulled in crun, which refuses hosts that mount both cgroup versions.
# /dev/net/tun carries a normal user's container network.
have_buildah() {
    have buildah podman runc mmdebstrap newuidmap fuse-overlayfs iptables && { have slirp4netns || have pasta; } &&
        device_is_open /dev/net/tun
}

install_buildah() {
    local packages=(buildah podman runc mmdebstrap uidmap fuse-overlayfs iptables ca-certificates)
    # Podman 5 connects a normal user's containers through passt, older ones through slirp4netns.
    if version_at_least "$(apt_candidate podman)" 5; then packages+=(passt); else packages+=(slirp4netns); fi
    need_admin "sudo apt-get install -y --no-install-recommends ${packages[*]}" "sudo dnf install -y buildah podman"
    apt_install "${packages[@]}"
    open_device /dev/net/tun
}

have_bootstrap() { have mmdebstrap; }

install_bootstrap() {
    need_admin "sudo apt-get install -y mmdebstrap" "sudo dnf install -y mmdebstrap"
    apt_install mmdebstrap
}

have_registry() { have docker-registry skopeo; }

install_registry() {
    need_admin "sudo apt-get install -y docker-registry skopeo" "sudo dnf install -y docker-distribution skopeo"
    without_service_start apt_install docker-registry skopeo
}

install_engine() {
    if ! "have_$1"; then
        "install_$1"
        "have_$1" || fail "$1 is installed but does not work"
    fi
    say "$1 is installed"
}

status() {
    report buildah "$(first_version buildah --version)" "podman $(first_version podman --version)"
    report docker "$(first_version dockerd --version)" "daemon $(docker_server || printf 'does not answer')"
    report apptainer "$(first_version apptainer --version)" \
        "/dev/fuse is $(if device_is_open /dev/fuse; then printf 'open'; else printf 'closed'; fi) to users"
    report registry "$(first_version docker-registry --version)" "skopeo $(first_version skopeo --version)"
}

report() { printf '%-10s %-10s %s\n' "$1" "${2:-missing}" "$3"; }

case "$*" in
    "install buildah" | "install docker" | "install apptainer" | "install bootstrap" | "install registry") install_engine "$2" ;;
    "start docker" | "stop docker") "$1_docker" ;;
    status) status ;;
    *) usage ;;
esac
