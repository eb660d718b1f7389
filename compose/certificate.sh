# shellcheck shell=bash
# Of an edge whose certificate comes by ACME, in front of edge.sh: every 5 s it sends the service `acme` its request for a
# certificate and the certificate that it serves, and takes a newer one as a release is taken: Nginx tests the whole
# configuration with it, a file is replaced, Nginx reloads. What it serves stays in the edge's directory, whatever becomes
# of `acme`. The private key is not sent.
newer() {
    # shellcheck disable=SC2016
    timeout 10 bash -c '
        exec 3<>/dev/tcp/acme/8000 || exit
        sent=$(cat request.pem certificate.pem)
        printf "POST /certificate HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" "${#sent}" "$sent" >&3
        read -r _ status _ <&3
        while IFS= read -r line <&3 && [ "${line%$'"'\r'"'}" ]; do :; done
        if [ "$status" = 200 ]; then cat <&3; fi
    ' 2>/dev/null
}

take() {
    rm -rf /tmp/next
    mkdir -p /tmp/next/tls
    ln -s "$release"/* /tmp/next/ 2>/dev/null
    ln -s "$release"/tls/key.pem /tmp/next/tls/
    printf '%s\n' "$1" >/tmp/next/tls/certificate.pem
    nginx -e /dev/stderr -q -t -p /tmp/next/ -c nginx.conf || return
    file=$(readlink -f certificate.pem)
    cp /tmp/next/tls/certificate.pem "$file.new" && mv "$file.new" "$file" &&
        nginx -e /dev/stderr -p /etc/gatehouse/current/ -c nginx.conf -s reload &&
        echo "edge: reloaded with a new certificate" >&2
}

certificates() {
    refused=
    while sleep 5 && [ ! -e /tmp/leaving ]; do
        release=$(readlink -f /etc/gatehouse/current)
        cd "$release/tls" || continue
        chain=$(newer)
        # Whole, and not what Nginx has refused already.
        case $chain in "$refused" | '') ;; *"-----END CERTIFICATE-----") take "$chain" || refused=$chain ;; esac
    done
}

certificates &
