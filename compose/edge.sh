# shellcheck shell=bash
# The edge's first process: runs Nginx, and leaves in good order when the engine sends SIGTERM.
#
#   bash -c "$(cat edge.sh)" edge LEAVE FINISH
#
# With other edges beside it, it serves on for LEAVE seconds while /healthz on its plain port answers 503, so that whatever
# sends clients here (a balancer, keepalived) has time to send them elsewhere; then requests in flight get FINISH seconds
# more. Alone, nobody answers from when it stops listening until its successor runs: it stops at once, and what is in
# flight gets 3 s.
others() {
    mine=" $(hostname -I) "
    getent ahostsv4 tasks.edge | while read -r address _; do
        case $mine in *" $address "*) ;; *) echo "$address" ;; esac
    done
}

leave() {
    trap '' TERM
    finish=3
    if [ -n "$(others)" ]; then
        touch /tmp/leaving
        sleep "$1"
        finish=$2
    fi
    kill -QUIT "$nginx"
    { sleep "$finish"; kill -TERM "$nginx"; } &
    wait "$nginx"
    exit
}

# -p: every path in the configuration is relative to the release that `current` points to.
nginx -e /dev/stderr -p /etc/gatehouse/current/ -c nginx.conf &
nginx=$!
trap 'leave "$@"' TERM
wait "$nginx"
