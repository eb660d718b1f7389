#!/bin/sh
# Locust inside the stack's network: its web UI on http://localhost:8089, or with --headless one run and its summary.
#
#   loadtests/run.sh [arguments of Locust]      (`make load` and `make load-headless` set its environment)
#
# Exit code of a headless run: loadtests/slo.py's, or Locust's own, 1 when any request failed. However it ends, no container
# and no network stays behind.
set -eu
cd "$(dirname "$0")"

project=${GATEHOUSE_PROJECT:-gatehouse}
docker=${GATEHOUSE_DOCKER:-docker} # "sudo -n docker" where only root may use the engine
results=../build/load

[ -n "${GATEHOUSE_LOCUST:-}" ] || $docker network inspect "${project}_apps" >/dev/null 2>&1 || {
    echo "error: there is no network ${project}_apps: the stack is not running. Type: make up" >&2
    exit 1
}

# The container writes results as whoever runs this. root stays out of it: then they belong to the image's user.
mkdir -p "$results"
if [ -n "${GATEHOUSE_LOCUST:-}" ]; then # the process engine's: no container, the same arguments
    patience=3
    case " $* " in *" --headless "*)
        patience=35
        case " $* " in *" --shape "*) ;; *) set -- --run-time 2m "$@" ;; esac ;;
    esac
    cd ..
    export GATEHOUSE_ROOT="$GATEHOUSE_SITE"
    # In a session of its own, so that all of it can be ended: workers outlive a master that gives up by a minute.
    setsid "$GATEHOUSE_LOCUST" --config loadtests/locust.conf --processes -1 --web-host 127.0.0.1 \
        --web-port "${GATEHOUSE_LOAD_PORT:-8089}" --host "$GATEHOUSE_LOAD_TARGET" --results build/load \
        --stop-timeout $patience "$@" </dev/null &
    locust=$! code=0
    trap 'kill -TERM "$locust"' INT TERM HUP # SIGINT is ignored by what a shell starts in the background
    trap 'kill -KILL "-$locust" 2>/dev/null || true' EXIT
    wait "$locust" || code=$?
    while kill -0 "$locust" 2>/dev/null; do code=0; wait "$locust" || code=$?; done # a signal ends a wait early
    exit $code
fi
user=$(id -u):$(id -g)
if [ "$(id -u)" -eq 0 ]; then
    user=10001:10001
    chown "$user" "$results"
fi
# A file, because sudo drops the environment; in quotes, because Compose would expand a $ in a password.
settings=$results.$$.env
(umask 077 && printf "%s='%s'\n" GATEHOUSE_PROJECT "$project" GATEHOUSE_SITE "${GATEHOUSE_SITE:-..}" \
    GATEHOUSE_LOAD_IMAGE "${GATEHOUSE_LOAD_IMAGE:-}" GATEHOUSE_ENV "${GATEHOUSE_ENV:-local}" GATEHOUSE_USER "$user" \
    GATEHOUSE_LOAD_PORT "${GATEHOUSE_LOAD_PORT:-8089}" GATEHOUSE_VERSION "${GATEHOUSE_VERSION:-unknown}" \
    GATEHOUSE_LOAD_PASSWORD "${GATEHOUSE_LOAD_PASSWORD:-}" GATEHOUSE_LOAD_KEY "${GATEHOUSE_LOAD_KEY:-}" >"$settings")
# A project of its own for each run, so that the end of one does not end another.
compose() { $docker compose --progress quiet -p "$project-load-$$" -f compose.yml --env-file "$settings" "$@"; }

# In the UI, workers are ready for the next run so many seconds after a stop.
ports=--service-ports patience=3
case " $* " in *" --headless "*)
    # At the end longer than users.py's PATIENCE, so that a request without an answer is a failure and not left out.
    ports='' patience=35
    case " $* " in *" --shape "*) ;; *) set -- --run-time 2m "$@" ;; esac ;; # a shape has its own time
esac
set -- --results /results --stop-timeout $patience "$@"

trap 'trap "" INT TERM HUP; compose down --remove-orphans; rm -f "$settings"' EXIT
trap 'exit 130' INT TERM HUP
if [ -t 0 ]; then
    compose run --rm $ports load "$@" # ^C reaches Locust through the terminal
else
    compose run -T --rm $ports load "$@" & # in the background, else the shell would heed signals only after its end
    wait $!
fi
