#!/bin/sh
# What a bare Debian or Ubuntu machine lacks, one step a subcommand:
#
#   bootstrap.sh venv DIR LOCK...   a virtual environment from hash-locked requirements
#   bootstrap.sh docker             a Docker engine with Compose v2, installed and running
#   bootstrap.sh base-image NAME    a small Debian image from packages (13, or SUITE), for machines without an image registry
#
# Every step says what it does, does nothing twice, and exits 1 with one sentence when it cannot go on.
set -eu
PATH=$PATH:/usr/sbin:/sbin # where dockerd lies, and which an ordinary Debian user has not

say() { printf '  %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# need_root STEP: ends with a sentence about STEP unless this user can become root without being asked for a password.
need_root() {
    [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null ||
        die "$* needs root. Type make as root or as a user with sudo (where it asks for a password: sudo -v, then make), or have an administrator do it"
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"
    else sudo -n --preserve-env=http_proxy,https_proxy,no_proxy,HTTP_PROXY,HTTPS_PROXY,NO_PROXY "$@"
    fi
}

# quietly FILTER COMMAND...: a tool's output is only interesting when it fails, and then only the lines FILTER lets by.
quietly() {
    filter=$1 log=$(mktemp); shift
    if "$@" >"$log" 2>&1; then rm -f "$log"; return 0; fi
    { grep -E "$filter" "$log" || cat "$log"; } | grep -v 'Retry(total=[1-9]' | tail -n 8 | sed 's/^/  | /' >&2
    rm -f "$log"; return 1
}

# An update of apt's lists that fails does no harm by itself: a package source of this machine that nobody needs here
# may be broken, or the lists that are here may do.
install() {
    need_root "apt-get install $*"
    say "installing $*"
    # shellcheck disable=SC2016  # the inner shell's variables
    quietly '^(E:|W:|dpkg)' as_root env DEBIAN_FRONTEND=noninteractive sh -c \
        'apt-get -q update; exec apt-get -q -y --no-install-recommends install "$@"' apt "$@" ||
        die "apt-get could not install $* (its reasons are above). Is a package mirror in reach?"
}

distribution() {
    [ -r /etc/os-release ] || die "no /etc/os-release: cannot tell which packages to install. Install Docker >= 25 with Compose v2 by hand."
    # shellcheck source=/dev/null
    . /etc/os-release
    printf '%s %s\n' "${ID:-unknown}" "${VERSION_ID:-0}"
}

# sources SUITE: where apt gets Debian from on this machine, as lines for SUITE; its updates and security fixes, too.
sources() {
    # shellcheck disable=SC2016  # apt's variables
    apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(REPO_URI) $(RELEASE)' 'Created-By: Packages' 2>/dev/null |
        awk -v suite="$1" '$1 == "Debian" && $2 == "main" && $4 ~ /^[a-z]+(-updates|-security)?$/ {
            sub(/^[a-z]+/, suite, $4); line = "deb " $3 " " $4 " main"; if (!seen[line]++) print line }'
}

# The question above has an answer once apt has its lists.
know_sources() { [ -n "$(sources trixie)" ] || quietly . as_root apt-get -qq update --error-on=any || true; }

# --- venv -----------------------------------------------------------------------------------------------------------

# With BUILD=LOCK, the first of a venv's locks has no wheels, and is compiled with what that one names; it stays nowhere.
compile() {
    tools=$(mktemp -d)
    quietly . "$dir/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$BUILD" --target "$tools" &&
    PYTHONPATH=$tools quietly . "$dir/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-build-isolation -r "$1" ||
        { rm -rf "$tools"; die "pip could not compile $1 (its reasons are above)"; }
    rm -rf "$tools"
}

venv() {
    dir=$1; shift
    python=${PYTHON:-python3}
    command -v "$python" >/dev/null || die "no $python on this machine. Type: apt-get install python3 python3-venv"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "Gatehouse needs Python 3.11 or newer and $python is $("$python" -V 2>&1). Type: make PYTHON=python3.13 ..."
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        install "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    [ -x "$dir/bin/python" ] || { say "making $dir"; "$python" -m venv "$dir"; }
    for lock; do
        say "installing $lock into $dir"
        if [ -n "${BUILD:-}" ]; then compile "$lock" && BUILD= && continue; fi
        quietly . "$dir/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock" ||
            die "pip could not install $lock (its reasons are above). Behind a proxy or a private index? pip's own settings apply: PIP_INDEX_URL, PIP_CERT, pip.conf"
    done
}

# --- docker ---------------------------------------------------------------------------------------------------------

answers() { docker info >/dev/null 2>&1 || sudo -n --preserve-env=DOCKER_HOST,DOCKER_CONTEXT docker info >/dev/null 2>&1; }
recent() { [ "$(docker version --format '{{.Server.Version}}' 2>/dev/null | cut -d. -f1)" -ge 25 ] 2>/dev/null; }
compose() { docker compose version >/dev/null 2>&1; }

install_docker() {
    # shellcheck disable=SC2046  # two words on purpose
    set -- $(distribution)
    packages="docker.io docker-cli docker-compose docker-buildx"
    case "$1 ${2%%.*}" in
    "debian 12")
        # Debian 12's own docker-compose is v1. The four packages of Debian 13 need only libc >= 2.34 and run here as
        # they are; the pin keeps everything else at Debian 12. Delete this branch once Debian 12 is out of support.
        know_sources
        line=$(sources trixie | grep ' trixie main$' | head -n 1)
        [ -n "$line" ] || die "apt has no Debian mirror that answers, and Docker is installed from there. Check /etc/apt/sources.list and the network"
        say "adding Debian 13's Docker packages, and nothing else of Debian 13, to apt"
        echo "$line" | as_root tee /etc/apt/sources.list.d/gatehouse-docker.list >/dev/null
        printf '%s\n' 'Package: *' 'Pin: release n=trixie' 'Pin-Priority: 100' '' \
            "Package: $packages" 'Pin: release n=trixie' 'Pin-Priority: 900' |
            as_root tee /etc/apt/preferences.d/gatehouse-docker >/dev/null ;;
    debian\ *) ;;
    ubuntu\ *) packages="docker.io docker-compose-v2 docker-buildx" ;;
    *) die "Gatehouse installs Docker on Debian and Ubuntu, and this is $1 $2. Install Docker >= 25 with Compose v2 by hand and run make again." ;;
    esac
    # shellcheck disable=SC2086  # a list of packages
    install $packages iptables ca-certificates
}

start_docker() {
    need_root "starting the Docker daemon"
    if [ -d /run/systemd/system ]; then
        say "starting docker.service"
        as_root systemctl start docker || true
    else
        say "starting dockerd (no systemd here; its log is /var/log/dockerd.log)"
        # After a power cut their old numbers may be other processes' by now, and dockerd would think it runs already.
        for pid in /var/run/docker.pid /var/run/docker/containerd/containerd.pid; do
            number=$(as_root cat "$pid" 2>/dev/null) || continue
            grep -qsxE 'dockerd|containerd' "/proc/$number/comm" || as_root rm -f "$pid"
        done
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
    if answers && compose; then return 0; fi
    case "$(docker info 2>&1)" in
    *"permission denied"*) die "a Docker engine runs here, but $(id -un) may not use it. Type: sudo usermod -aG docker $(id -un)   and log in again; or run without it: make up ENGINE=process" ;;
    esac
    [ -z "${DOCKER_HOST:-}" ] || die "the Docker engine at DOCKER_HOST=$DOCKER_HOST does not answer. Start it, or unset DOCKER_HOST to use one on this machine"
    [ "${DOCKER:-}" != no ] || die "no Docker engine with Compose v2 answers here: make up installs or starts one, and DOCKER=no forbids that"
    if ! command -v dockerd >/dev/null || ! compose; then
        need_root "installing a Docker engine"
        before=""; if answers; then before=yes; fi
        install_docker
        # Where only Compose or buildx was missing, the engine is what it was.
        [ -z "$before" ] || recent || die "Docker is upgraded, but the daemon of before still runs. Restart it (this stops the containers it runs), then type make again"
    fi
    answers || start_docker
    compose || die "docker compose (v2) is missing even after the installation: check 'docker info' for its plugins"
}

# --- base image -----------------------------------------------------------------------------------------------------

base_image() {
    name=$1 suite=${2:-trixie} packages=${3:-}
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    if ! command -v mmdebstrap >/dev/null || [ ! -e $keys ]; then install mmdebstrap debian-archive-keyring; fi
    need_root "mmdebstrap, which makes the image $name,"
    say "making $name from Debian packages"
    work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
    # This machine's own mirror. On Ubuntu, whose mirror has no Debian, mmdebstrap's own default is asked.
    case "$(distribution)" in debian*) know_sources ;; esac
    sources "$suite" >"$work/all.list"
    main=$(grep " $suite main\$" "$work/all.list" | head -n 1)
    grep -v " $suite main\$" "$work/all.list" >"$work/updates.list" || rm "$work/updates.list"
    # Settings without which this network's mirror does not answer or counts as out of date.
    apt-config dump | grep -E '^Acquire::(Check-|Retries|https?::Proxy[: ])' | grep -Ev '//(127\.|localhost)' >"$work/apt.conf" || true
    # What the official slim image leaves out, too: documentation and translations.
    set -- "$suite" "$work/root.tar" ${main:+"$main"}
    [ ! -e "$work/updates.list" ] || set -- "$@" "$work/updates.list"
    quietly '^(E:|W:)' as_root mmdebstrap --variant=minbase --include="ca-certificates${packages:+,$packages}" \
        --aptopt="$work/apt.conf" --keyring=$keys --keyring=/etc/apt/trusted.gpg.d \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/info/*' --dpkgopt='path-exclude=/usr/share/locale/*' "$@" ||
        die "mmdebstrap could not make $name (its reasons are above). Is a package mirror in reach?"
    if docker info >/dev/null 2>&1; then docker import "$work/root.tar" "$name"; else as_root docker import "$work/root.tar" "$name"; fi
}

verb=${1:-}; [ $# -eq 0 ] || shift
case "$verb" in
venv) venv "$@" ;;
docker) docker_engine ;;
base-image) base_image "$@" ;;
*) die "usage: bootstrap.sh venv DIR LOCK... | docker | base-image NAME [SUITE [PACKAGE,...]]" ;;
esac
