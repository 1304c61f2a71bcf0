"""The pages /metrics, /healthz and /readyz, as the first part of a server to start and the last to stop."""

from __future__ import annotations

from http import HTTPStatus

from takhin.metrics.http import HttpServer, Request, Response
from takhin.metrics.readiness import Readiness
from takhin.metrics.scrape import Scraper, Watched
from takhin.metrics.sheet import OPEN_METRICS, TEXT
from takhin.settings import MetricsSettings


class MetricsServer:
    """Shows the numbers of what is watched. Life: `start`, serve, `stop`."""

    def __init__(self, listen: str, watched: Watched, settings: MetricsSettings) -> None:
        """listen: HOST:PORT."""
        self.readiness = Readiness(watched.broker)
        self._scraper = Scraper(watched, self.readiness, settings)
        self._http = HttpServer(
            {"/metrics": self._metrics, "/healthz": self._alive, "/readyz": self._ready},
            listen,
            connections_max=settings.connections_max,
            seconds_max=settings.request_ms_max / 1_000,
        )

    @property
    def address(self) -> str:
        """HOST:PORT, once started."""
        return self._http.address

    async def start(self) -> None:
        """Serve. Raises StartupError."""
        await self._http.start()
        self._scraper.delay.start()

    async def stop(self, _grace_seconds: float) -> None:
        self._scraper.delay.stop()
        await self._http.stop()

    async def _metrics(self, request: Request) -> Response:
        openmetrics = "application/openmetrics-text" in request.headers.get("accept", "")
        body = await self._scraper.scrape(openmetrics=openmetrics)
        return Response(body, content_type=OPEN_METRICS if openmetrics else TEXT)

    async def _alive(self, _request: Request) -> Response:
        """The loop answers, and so the process is alive, whatever is wrong with it."""
        return Response(b"alive\n")

    async def _ready(self, _request: Request) -> Response:
        status = HTTPStatus.OK if self.readiness.ready else HTTPStatus.SERVICE_UNAVAILABLE
        return Response(self.readiness.text().encode("utf-8", "replace"), status)
