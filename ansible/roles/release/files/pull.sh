#!/bin/sh
# pull.sh REGISTRY IMAGE...: the images that are not here, with REGISTRY_USER and REGISTRY_PASSWORD where there are any.
set -u
registry=$1; shift
config=$(mktemp -d /run/gatehouse.XXXXXX); trap 'rm -rf "$config"' EXIT
for image; do
    if docker image inspect "$image" >/dev/null 2>&1; then continue; fi
    if [ -n "$REGISTRY_USER" ] && [ ! -e "$config/config.json" ]; then
        printf %s "$REGISTRY_PASSWORD" |
            docker --config "$config" login --username "$REGISTRY_USER" --password-stdin "${registry%%/*}" >/dev/null || exit
    fi
    docker --config "$config" pull --quiet "$image" >/dev/null && echo "pulled $image"
done
