# The name of the official image, made from Debian's packages, for machines without an image registry.
# The chain needs Nginx >= 1.30 and trixie has 1.26, so Nginx alone comes from unstable; the pin keeps everything
# else at trixie. Delete the pin once Debian 14 is the base.
FROM debian:trixie-slim
RUN sed -n 's/ trixie main$/ sid main/p' /etc/apt/sources.list > /etc/apt/sources.list.d/sid.list \
 # A frozen mirror's unstable index is past its date; its signature is still checked.
 && echo 'Acquire::Check-Valid-Until "false";' > /etc/apt/apt.conf.d/99gatehouse \
 && printf 'Package: *\nPin: release n=sid\nPin-Priority: 1\n\nPackage: nginx nginx-common libpcre2-8-0\nPin: release n=sid\nPin-Priority: 900\n' \
    > /etc/apt/preferences.d/gatehouse \
 && apt-get update \
 && apt-get install -y --no-install-recommends nginx \
 && apt-get clean && rm -rf /var/lib/apt/lists/* \
 # The official image's user, so that the same service definition fits both.
 && groupadd --system --gid 101 nginx && useradd --system --uid 101 --gid 101 --no-create-home --shell /usr/sbin/nologin nginx
# QUIT lets requests in flight finish; TERM, the default, cuts them (measured: 6 of 6 against 0 of 6).
STOPSIGNAL SIGQUIT
CMD ["nginx", "-g", "daemon off;"]
