# The name of the official image, made from Debian 13's own packages, for machines without an image registry.
# Debian 13's Python is 3.13, like the official python:3.13-slim-trixie.
FROM debian:trixie-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv ca-certificates \
 && ln -s /usr/bin/python3 /usr/local/bin/python \
 && apt-get clean && rm -rf /var/lib/apt/lists/*
