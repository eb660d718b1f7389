#!/bin/sh
# A bare machine, and on it what a stranger types. It shows that the README's two commands are all the set-up there is:
#
#   tests/bare.sh 'make up' 'curl -fsS localhost:8080/flask/' 'make up' 'make test'
#   tests/bare.sh --suite trixie --user 'make up'
#
#   --suite bookworm|trixie   the machine's Debian; or any image that you have as gatehouse/bare:SUITE   (bookworm)
#   --user                    type as an ordinary user with passwordless sudo, not as root
#   --systemd                 with systemd as its first process, like most machines     (a process that sleeps)
#   --network NAME            a Docker network, to see what happens without one: none    (bridge)
#   BARE_TREE=1               with the working tree's files in place of HEAD's
#
# The machine is a privileged container on this machine's Docker engine: a minimal Debian with python3, make, git, sudo
# and curl, without python3-venv, Docker or iptables, and with what any machine of this network has: apt's
# sources and settings, extra certificate authorities, pip's and the proxies' settings. Its image stays, as
# gatehouse/bare:SUITE; the machine and everything in it are removed at the end. Every command starts in a fresh
# `git clone`; the first that fails is the last, and its exit code is this script's.
set -eu

usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }

suite=bookworm user=root home=/root network=bridge systemd='' path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
while [ $# -gt 0 ]; do
    case $1 in
    --suite) suite=${2:-}; shift 2 || usage ;;
    --user) user=stranger home=/home/stranger path=/usr/local/bin:/usr/bin:/bin; shift ;;
    --network) network=${2:-}; shift 2 || usage ;;
    --systemd) systemd=yes; shift ;;
    -*) usage ;;
    *) break ;;
    esac
done
[ $# -gt 0 ] || usage
cd "$(dirname "$0")/.."

image=gatehouse/bare:$suite${systemd:+-systemd} machine=gatehouse-bare-$$
if ! docker image inspect "$image" >/dev/null 2>&1; then
    case $suite in bookworm | trixie) ;; *) usage ;; esac
    stack/bootstrap.sh base-image "$image" "$suite" \
        python3,make,git,sudo,curl,procps,iproute2${systemd:+,systemd-sysv,dbus} >/dev/null
fi

# --- the machine ----------------------------------------------------------------------------------------------------

trap 'docker rm --force --volumes "$machine" >/dev/null 2>&1' EXIT
trap 'exit 130' INT TERM HUP

# The commands stay in "$@", so the settings travel in a file. Variables that name a CA bundle name the machine's own.
settings=$(env | sed -nE -e 's#^(PIP_CERT|(SSL|CURL|REQUESTS|GIT_SSL)_C[A-Z_]*)=.*\.(crt|pem)$#\1=/etc/ssl/certs/ca-certificates.crt#p' \
    -e '/^(PIP_(INDEX_URL|EXTRA_INDEX_URL|TRUSTED_HOST|DEFAULT_TIMEOUT)|(https?|no|all)_proxy|(HTTPS?|NO|ALL)_PROXY)=/p')
first="--init $image sleep infinity"
[ -z "$systemd" ] || first="$image /lib/systemd/systemd"
# shellcheck disable=SC2086  # words
printf '%s\n' "$settings" | docker run --detach --name "$machine" --hostname bare --env-file /dev/stdin --privileged \
    --cgroupns private --network "$network" --tmpfs /run --volume /var/lib/docker $first >/dev/null

inside() { docker exec --interactive "$@"; }
booted() { [ -z "$systemd" ] || inside "$machine" systemctl is-system-running 2>/dev/null | grep -Eq 'running|degraded'; }
for _ in $(seq 60); do if booted; then break; fi; sleep 0.5; done
tar -C /usr/local/share/ca-certificates -c . 2>/dev/null | inside "$machine" tar -C /usr/local/share/ca-certificates -x
said=$(inside "$machine" update-ca-certificates 2>&1) || { echo "error: $said" >&2; exit 1; }
[ ! -r /etc/pip.conf ] || docker cp -q /etc/pip.conf "$machine:/etc/pip.conf"
if [ $user != root ]; then
    inside "$machine" sh -c "useradd --create-home --shell /bin/bash $user && echo '$user ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/$user"
fi

# --- what is typed --------------------------------------------------------------------------------------------------

since() { now=$(($(date +%s%N) / 100000000 - $1)); printf '%d.%d s' $((now / 10)) $((now % 10)); }
type_in() { docker exec --user $user --env "PATH=$path" --workdir "$1" "$machine" sh -c "$2"; }

git bundle create --quiet - HEAD | inside --user $user --workdir $home "$machine" sh -c 'cat >gatehouse.bundle'
born=$(($(date +%s%N) / 100000000))
type_in $home 'git clone --quiet gatehouse.bundle gatehouse 2>/dev/null'
printf '== git clone of %s into a bare %s, as %s: %s\n' "$(git describe --always)" "$suite" $user "$(since $born)"
if [ -n "${BARE_TREE:-}" ]; then
    type_in $home/gatehouse 'git rm -rqf .'
    git ls-files -z --cached --others --exclude-standard | tar --null --ignore-failed-read -T - -c 2>/dev/null |
        inside --user $user --workdir $home/gatehouse "$machine" tar -x
fi
for command; do
    printf '\n$ %s\n' "$command"
    start=$(($(date +%s%N) / 100000000)) code=0
    type_in $home/gatehouse "$command" || code=$?
    printf '== %s, exit %d; %s since the clone\n' "$(since $start)" $code "$(since $born)"
    [ $code -eq 0 ] || exit $code
done
