#!/bin/sh
# pull.sh REGISTRY IMAGE...: the images that are not here. Standard input: a user and a password, a line each, or empty ones.
set -u
IFS= read -r user; IFS= read -r password || true
registry=$1; shift
config=$(mktemp -d /run/gatehouse.XXXXXX); trap 'rm -rf "$config"' EXIT
for image; do
    if docker image inspect "$image" >/dev/null 2>&1; then continue; fi
    if [ -n "$user" ] && [ ! -e "$config/config.json" ]; then
        printf %s "$password" |
            docker --config "$config" login --username "$user" --password-stdin "${registry%%/*}" >/dev/null || exit
    fi
    docker --config "$config" pull --quiet "$image" >/dev/null && echo "pulled $image"
done
