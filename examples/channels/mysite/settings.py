"""Django behind one proxy that overwrites X-Forwarded-*: no database, no session, nothing that the contract does not need.
Client address, scheme, host and prefix come from the gateway."""

ALLOWED_HOSTS = ["*"]  # the edge closes every request for a name that is not in `domains`
ROOT_URLCONF = "mysite.urls"
ASGI_APPLICATION = "mysite.asgi.application"
INSTALLED_APPS = ["channels"]

MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]  # Content-Length
