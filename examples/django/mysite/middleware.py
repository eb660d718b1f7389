"""What stands between a gateway and the views."""


def client_address(get_response):
    """REMOTE_ADDR is the proxy's, and Django has no setting for it. One proxy in front, which overwrites the header."""

    def middleware(request):
        if "HTTP_X_FORWARDED_FOR" in request.META:
            request.META["REMOTE_ADDR"] = request.META["HTTP_X_FORWARDED_FOR"]
        return get_response(request)

    return middleware
