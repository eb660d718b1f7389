#!/bin/sh
# What a bare Debian or Ubuntu machine lacks, one step a subcommand:
#
#   bootstrap.sh venv DIR LOCK...   a virtual environment from hash-locked requirements
#   bootstrap.sh docker             a Docker engine with Compose v2, installed and running
#   bootstrap.sh base-image NAME    a small Debian 13 image from packages, for machines without an image registry
#
# Every step says what it does, does nothing twice, and exits 1 with one sentence when it cannot go on.
set -eu

say() { printf '  %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo -n "$@"
    else die "this step needs root: $*  (run it yourself, or run make again as root or with passwordless sudo)"
    fi
}

# apt's output is only interesting when it fails.
apt() {
    log=$(mktemp)
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@" >"$log" 2>&1 || {
        tail -n 15 "$log" >&2; rm -f "$log"
        die "apt-get $* failed (its last lines are above). Is a package mirror in reach?"
    }
    rm -f "$log"
}

distribution() {
    [ -r /etc/os-release ] || die "no /etc/os-release: cannot tell which packages to install. Install Docker >= 25 with Compose v2 by hand."
    # shellcheck source=/dev/null
    . /etc/os-release
    printf '%s %s\n' "${ID:-unknown}" "${VERSION_ID:-0}"
}

mirror() {
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
        awk '$2 !~ /-/ && $3 == "main" { print $1; exit }'
}

# --- venv -----------------------------------------------------------------------------------------------------------

venv() {
    dir=$1; shift
    python=${PYTHON:-python3}
    command -v "$python" >/dev/null || die "no $python on this machine. Type: apt-get install python3 python3-venv"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "Gatehouse needs Python 3.11 or newer and $python is $("$python" -V 2>&1). Type: make PYTHON=python3.13 ..."
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        say "python3-venv is missing: installing it"
        apt update; apt install --no-install-recommends "python$version-venv"
    fi
    [ -x "$dir/bin/python" ] || { say "making $dir"; "$python" -m venv "$dir"; }
    set -- "$@"
    for lock in "$@"; do
        say "installing $lock into $dir"
        "$dir/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock" ||
            die "pip could not install $lock (its reason is above). Behind a proxy or a private index? pip's own settings apply: PIP_INDEX_URL, PIP_CERT, pip.conf"
    done
}

# --- docker ---------------------------------------------------------------------------------------------------------

answers() { docker info >/dev/null 2>&1 || as_root_quietly docker info; }
as_root_quietly() { sudo -n "$@" >/dev/null 2>&1; }

install_docker() {
    # shellcheck disable=SC2046  # two words on purpose
    set -- $(distribution)
    case "$1 ${2%%.*}" in
    "debian 12")
        # Debian 12's own docker-compose is v1. The four packages of Debian 13 need only libc >= 2.34 and run here as
        # they are; the pin keeps everything else at Debian 12. Delete this branch once Debian 12 is out of support.
        apt update
        site=$(mirror); [ -n "$site" ] || die "apt knows no Debian mirror (apt-get indextargets is empty): add one to /etc/apt/sources.list"
        say "adding Debian 13's docker.io, docker-cli, docker-compose and docker-buildx, and nothing else, to apt"
        printf 'deb %s trixie main\n' "$site" | as_root tee /etc/apt/sources.list.d/gatehouse-docker.list >/dev/null
        printf '%s\n' 'Package: *' 'Pin: release n=trixie' 'Pin-Priority: 100' '' \
            'Package: docker.io docker-cli docker-compose docker-buildx' 'Pin: release n=trixie' 'Pin-Priority: 900' |
            as_root tee /etc/apt/preferences.d/gatehouse-docker >/dev/null
        packages="docker.io docker-cli docker-compose docker-buildx" ;;
    debian\ *) packages="docker.io docker-cli docker-compose docker-buildx" ;;
    ubuntu\ *) packages="docker.io docker-compose-v2 docker-buildx" ;;
    *) die "Gatehouse installs Docker on Debian and Ubuntu, and this is $1 $2. Install Docker >= 25 with Compose v2 by hand and run make again." ;;
    esac
    say "installing $packages"
    apt update
    # shellcheck disable=SC2086  # a list of packages
    apt install --no-install-recommends $packages iptables ca-certificates
}

start_docker() {
    if [ -d /run/systemd/system ]; then
        say "starting docker.service"
        as_root systemctl start docker
    else
        say "starting dockerd (no systemd here; its log is /var/log/dockerd.log)"
        as_root sh -c 'setsid dockerd >>/var/log/dockerd.log 2>&1 </dev/null &'
    fi
    for _ in $(seq 60); do
        if answers; then return 0; fi
        sleep 0.5
    done
    as_root tail -n 15 /var/log/dockerd.log >&2 2>/dev/null || as_root journalctl -u docker -n 15 --no-pager >&2 || true
    die "the Docker daemon did not answer within 30 s (its last lines are above)"
}

docker_engine() {
    if answers; then
        if docker compose version >/dev/null 2>&1; then return 0; fi
    fi
    [ "${DOCKER:-}" != no ] || die "no Docker engine with Compose v2 answers here and DOCKER=no forbids installing or starting one"
    command -v dockerd >/dev/null && docker compose version >/dev/null 2>&1 || install_docker
    if ! answers; then start_docker; fi
    docker compose version >/dev/null 2>&1 || die "docker compose (v2) is missing even after the installation: check 'docker info' for its plugins"
}

# --- base image -----------------------------------------------------------------------------------------------------

base_image() {
    command -v mmdebstrap >/dev/null || { apt update; apt install --no-install-recommends mmdebstrap debian-archive-keyring; }
    # On Ubuntu, whose mirror has no Debian, mmdebstrap's own default is asked.
    site=""; case "$(distribution)" in debian*) site=$(mirror) ;; esac
    root=$(mktemp -d); trap 'rm -rf "$root"' EXIT
    # What the official slim image leaves out, too: documentation and translations.
    as_root mmdebstrap --quiet --variant=minbase --include=ca-certificates \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/info/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        trixie "$root/root.tar" ${site:+"deb $site trixie main"}
    if docker info >/dev/null 2>&1; then docker import "$root/root.tar" "$1"; else as_root docker import "$root/root.tar" "$1"; fi
}

verb=${1:-}; [ $# -eq 0 ] || shift
case "$verb" in
venv) venv "$@" ;;
docker) docker_engine ;;
base-image) base_image "$@" ;;
*) die "usage: bootstrap.sh venv DIR LOCK... | docker | base-image NAME" ;;
esac
