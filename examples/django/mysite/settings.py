"""Django behind one proxy that overwrites X-Forwarded-*: no database, no session, nothing that the contract does not need."""

ALLOWED_HOSTS = ["*"]  # the edge closes every request for a name that is not in `domains`
ROOT_URLCONF = "mysite.urls"
WSGI_APPLICATION = "mysite.wsgi.application"

# For gateways that leave the scheme of their own connection in place. The host is in Host, port included.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

MIDDLEWARE = [
    "mysite.middleware.client_address",
    "django.middleware.common.CommonMiddleware",  # Content-Length
]
