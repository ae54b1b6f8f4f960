"""The HTTP side: alerts come in, incidents are shown and answered, Prometheus scrapes."""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import httpx
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import generate_latest
from pydantic import BaseModel

from .airflow import Airflow
from .audit_log import digest
from .notifier import Alert, Answer, Notifier, Refused
from .policy import Secrets, Settings, read

LARGEST_BODY = 1 << 20


class Webhook(BaseModel):
    """Alertmanager's message, as far as it is used."""

    alerts: list[Alert]


def create_app(notifier: Notifier, secrets: Secrets, every: float | None = 5) -> FastAPI:
    """The HTTP side; moves the incidents on every so many seconds (None: not by itself)."""
    moved = {"at": datetime.now(UTC)}

    async def work() -> None:
        while True:
            await asyncio.to_thread(notifier.step)
            moved["at"] = datetime.now(UTC)
            await asyncio.sleep(every)

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        worker = asyncio.create_task(work()) if every else None
        yield
        if worker:
            worker.cancel()

    def bearer(*wanted: str) -> Callable[[Request], None]:
        def check(request: Request) -> None:
            kind, _, token = request.headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not any(hmac.compare_digest(digest(token), one) for one in wanted):
                raise HTTPException(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})

        return check

    def metrics_user(request: Request) -> None:
        given = request.headers.get("authorization", "").encode()
        wanted = b"Basic " + base64.b64encode(f"metrics:{secrets.metrics_password}".encode())
        if not hmac.compare_digest(given, wanted):
            raise HTTPException(401, "the user metrics is needed", {"WWW-Authenticate": "Basic"})

    alertmanager = Depends(bearer(digest(secrets.webhook_token)))
    approver = Depends(bearer(secrets.approval_token_sha256))
    app = FastAPI(title="Rollback notifier", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)

    @app.middleware("http")
    async def small(request: Request, following: Callable[[Request], Awaitable[Response]]) -> Response:
        """Before anything is read: a body is taken in as a whole even of somebody who is then not let in."""
        length = request.headers.get("content-length", "")
        if request.method not in ("GET", "HEAD") and not (length.isdecimal() and int(length) <= LARGEST_BODY):
            detail = f"at most {LARGEST_BODY} bytes, and their number in Content-Length"
            return JSONResponse({"detail": detail}, 413)
        return await following(request)

    @app.post("/alerts", dependencies=[alertmanager])
    def alerts(webhook: Webhook) -> dict[str, list[str]]:
        return {"outcomes": [notifier.receive(alert) for alert in webhook.alerts]}

    @app.get("/incidents", dependencies=[approver])
    def incidents() -> list[dict[str, Any]]:
        return notifier.incidents()

    def answered(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return work()
        except LookupError as error:
            raise HTTPException(404, str(error)) from None
        except Refused as error:
            raise HTTPException(409, str(error)) from None
        except httpx.HTTPError as error:
            raise HTTPException(502, f"Airflow: {error}") from None

    @app.get("/incidents/{number}", dependencies=[approver])
    def incident(number: int) -> dict[str, Any]:
        return answered(lambda: notifier.incident(number))

    @app.post("/incidents/{number}/{verb}", dependencies=[approver])
    def answer(number: int, verb: Literal["approve", "reject"], given: Answer) -> dict[str, Any]:
        return answered(lambda: getattr(notifier, verb)(number, given))

    @app.get("/metrics", dependencies=[Depends(metrics_user)])
    def metrics() -> Response:
        return Response(generate_latest(notifier.registry), media_type="text/plain; version=0.0.4")

    @app.get("/health")
    def health() -> dict[str, str]:
        if every and datetime.now(UTC) - moved["at"] > timedelta(seconds=60 + 10 * every):
            raise HTTPException(503, f"no incident was moved on since {moved['at'].isoformat()}")
        return {"status": "ok"}

    return app


def serve(settings: Settings) -> None:
    """Run the service until it is stopped."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    secrets = read(settings.secrets, Secrets)
    airflow = Airflow(settings.airflow_url, settings.airflow_user, secrets.airflow_password, settings.ca)
    app = create_app(Notifier(settings, airflow), secrets)
    tls = {"ssl_certfile": str(settings.certificate), "ssl_keyfile": str(settings.key)}
    uvicorn.run(app, host="0.0.0.0", port=settings.port, access_log=False, server_header=False, log_config=None, **tls)
