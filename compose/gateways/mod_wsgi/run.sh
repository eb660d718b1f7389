# shellcheck shell=bash
# The first process: runs Apache, and has it leave in good order when the engine sends SIGTERM, on which Apache itself cuts
# requests. SIGWINCH lets them finish, but closes idle connections that Nginx may just be sending on (3 of 35,000 requests
# in eight stops). So for a time each answer closes its connection first (conf.py), and Nginx closes the idle ones.
#
#   bash run.sh SECONDS apache2 ...
linger=$1
shift

# shellcheck disable=SC2329 # by the trap
leave() {
    trap '' TERM
    touch /tmp/leaving
    sleep "$linger"
    kill -WINCH "$apache"
}

"$@" &
apache=$!
trap leave TERM
while kill -0 "$apache" 2>/dev/null; do
    wait "$apache"
    code=$?
done
[ ! -e /tmp/failed ] || code=3 # the app does not load: conf.py
exit "$code"
