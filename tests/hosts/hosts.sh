#!/bin/sh
# Bare machines to provision and deploy to over SSH: Debian 12 with systemd, sshd, sudo and python3, without Docker and
# with nothing of ours. What works on them works on real ones.
#
#   hosts.sh up N [ENV]    N fresh machines host1..hostN, and ansible/inventory/test for the environment ENV (test)
#   hosts.sh down          remove them, their volumes and their network
#   hosts.sh stop HOST     as when the power fails
#   hosts.sh start HOST    the power is back: it boots
#   hosts.sh cut HOST      pull its network cable: packets get lost without a word
#   hosts.sh join HOST     plug it in again
#
# Each is a privileged container on this machine's Docker engine, on a network of their own with addresses that stay. Their
# image comes from this machine's package mirror and stays, as gatehouse/host:bookworm. What any machine of this network has, they
# have: apt's sources and settings, extra certificate authorities, the proxies.
set -eu
cd "$(dirname "$0")/../.."

image=gatehouse/host:bookworm
network=gatehouse-hosts
# 10.231.77: neither Docker's own pools (172.16/12, 192.168/16) nor those that ansible/ gives to the machines' engines.
subnet=${HOSTS_SUBNET:-10.231.77}
keys=.local/hosts inventory=ansible/inventory/test
# systemd 252 of Debian 12 is the last that boots on a kernel with cgroup v1 without being asked to.
suite=bookworm packages=systemd-sysv,dbus,openssh-server,sudo,python3,python3-apt,iproute2,procps,curl

die() { printf 'error: %s\n' "$*" >&2; exit 1; }
usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
machine() { printf 'gatehouse-%s' "$1"; }
machines() { docker ps --all --quiet --filter "label=gatehouse.hosts"; }
inside() { host=$1; shift; docker exec --interactive "$(machine "$host")" "$@"; }
exists() { docker inspect "$(machine "$1")" >/dev/null 2>&1 || die "there is no machine $1. Type: make hosts-up HOSTS=3"; }

booted() {
    for _ in $(seq 120); do
        if inside "$1" systemctl is-system-running 2>/dev/null | grep -Eq 'running|degraded'; then return 0; fi
        sleep 0.25
    done
    die "$1 did not boot within 30 s. Type: docker logs $(machine "$1")"
}

make_machine() {
    host=host$1
    docker run --detach --name "$(machine "$host")" --hostname "$host" --label gatehouse.hosts --restart no \
        --privileged --cgroupns private --network $network --ip "$subnet.$((10 + $1))" \
        --tmpfs /run --tmpfs /tmp:exec --volume "gatehouse-$host:/var/lib/docker" --volume "gatehouse-$host-containerd:/var/lib/containerd" \
        --stop-signal SIGRTMIN+3 $image /lib/systemd/systemd >/dev/null
    booted "$host"
    tar -C /usr/local/share/ca-certificates -c . 2>/dev/null | inside "$host" tar -C /usr/local/share/ca-certificates -x
    said=$(inside "$host" update-ca-certificates 2>&1) || die "$host: $said"
    # Not an empty pipe: `docker exec --interactive` was seen to wait for ever for the end of one.
    proxies=$(env | grep -E '^((https?|no|all)_proxy|(HTTPS?|NO|ALL)_PROXY)=' || true)
    [ -z "$proxies" ] || echo "$proxies" | inside "$host" tee -a /etc/environment >/dev/null
    inside "$host" sh -c 'useradd --create-home --shell /bin/bash admin
        printf "%s\n" "admin ALL=(ALL) NOPASSWD: ALL" "Defaults env_keep += \"*_proxy *_PROXY\"" >/etc/sudoers.d/admin
        install -d -m 700 -o admin -g admin /home/admin/.ssh
        install -m 600 -o admin -g admin /dev/stdin /home/admin/.ssh/authorized_keys' <$keys/key.pub
}

write_inventory() {
    mkdir -p $inventory
    {
        printf '# Written by tests/hosts/hosts.sh: machines of make hosts-up.\n'
        printf 'managers:\n  hosts:\n'
        # 1, 3 or 5 managers; whatever is left works.
        managers=$(($1 > 5 ? 5 : ($1 - 1) / 2 * 2 + 1))
        for n in $(seq "$1"); do
            [ "$n" -ne $((managers + 1)) ] || printf 'workers:\n  hosts:\n'
            printf '    host%d: { ansible_host: %s.%d }\n' "$n" "$subnet" $((10 + n))
        done
        [ "$1" -gt "$managers" ] || printf 'workers:\n  hosts: {}\n'
        printf 'all:\n  vars:\n'
        printf '    gatehouse_env: %s\n' "$2"
        printf '    ansible_user: admin\n'
        printf '    ansible_ssh_private_key_file: %s/key\n' "$PWD/$keys"
        printf '    ansible_ssh_common_args: -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=%s/known_hosts\n' "$PWD/$keys"
        printf '    # Their kernel is that of the machine they run on: only what a network namespace has of its own.\n'
        printf '    host_sysctls: { net.ipv4.ip_nonlocal_bind: 1 }\n'
    } >$inventory/hosts.yml
}

up() {
    case ${1:-} in [1-9]) ;; *) usage ;; esac
    stack/bootstrap.sh docker
    docker image inspect $image >/dev/null 2>&1 || stack/bootstrap.sh base-image $image $suite $packages >/dev/null
    down
    mkdir -p $keys && chmod 700 .local $keys
    [ -e $keys/key ] || ssh-keygen -q -t ed25519 -N '' -C gatehouse-hosts -f $keys/key
    docker network create --subnet "$subnet.0/24" $network >/dev/null
    for n in $(seq "$1"); do make_machine "$n"; done
    write_inventory "$1" "${2:-test}"
    printf '%d bare machines, %s.11 and on: ssh -i %s/key admin@%s.11\nType: cd ansible && ansible-playbook -i inventory/test deploy.yml\n' \
        "$1" "$subnet" $keys "$subnet"
}

down() {
    # shellcheck disable=SC2046  # one word a machine
    [ -z "$(machines)" ] || docker rm --force $(machines) >/dev/null
    docker volume ls --quiet --filter name='^gatehouse-host[1-9](-containerd)?$' | xargs -r docker volume rm >/dev/null
    docker network rm $network >/dev/null 2>&1 || true
    rm -rf $inventory $keys/known_hosts
}

# cable HOST up|down: this machine's end of the pair that is the container's network card. The machine itself sees no
# error, as with a switch that is gone.
cable() {
    exists "$1"
    index=$(inside "$1" cat /sys/class/net/eth0/iflink)
    docker run --rm --privileged --network host $image sh -c \
        "ip -o link | sed -n 's/^$index: \\([^@:]*\\).*/\\1/p' | xargs -I@ ip link set @ $2"
}

verb=${1:-}; [ $# -eq 0 ] || shift
host=${1:-}
case $verb in
up) up "$@" ;;
down) down ;;
stop) exists "$host"; docker kill "$(machine "$host")" >/dev/null 2>&1 || true ;;
start) exists "$host"; docker start "$(machine "$host")" >/dev/null; booted "$host" ;;
cut) cable "$host" down ;;
join) cable "$host" up ;;
*) usage ;;
esac
