"""What an ASGI server loads: mysite.asgi:application."""

import os
import time

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
django = get_asgi_application()  # first: it sets Django up for the imports below

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402

from mysite.consumers import Echo  # noqa: E402


async def timed(scope, receive, send):
    """Django calls a view when the whole body has arrived. This tells it when the first byte of the request did."""
    await django({**scope, "began": time.monotonic()}, receive, send)


application = ProtocolTypeRouter({"http": timed, "websocket": URLRouter([path("ws", Echo.as_asgi())])})
