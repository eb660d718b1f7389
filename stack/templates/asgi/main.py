"""A FastAPI app to begin with: replace what it answers. Its documentation: /docs."""

import asyncio
import os

from fastapi_offline import FastAPIOffline

app = FastAPIOffline(title=os.environ.get("GATEHOUSE_APP", "here"))


@app.get("/")
async def hello() -> dict[str, str]:
    return {"message": f"Hello from {app.title}"}


@app.get("/items/{number}")
async def item(number: int) -> dict[str, int]:
    await asyncio.sleep(0.02)  # a database would be asked here; others are served meanwhile
    return {"number": number}


@app.get("/healthz")
async def healthz() -> str:
    """200 when the app can serve: nothing is sent to it before."""
    return "ok"
