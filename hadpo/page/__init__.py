"""The page: one picture, one question, two models side by side. `hadpo page` opens it.

It is for one machine: it listens on 127.0.0.1 only, makes no request to the outside except to the
server of a judge that is named, and stores nothing that a visitor uploads. Read `app` for what is
on it, `shelf` for its pictures, models and judge, `uploads` for what it refuses.
"""

# pyright: reportMissingImports=false
# (the extra `page` may be absent)

import gc
import importlib.util
import logging
import os
import socket
import tempfile
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hadpo.records import BadInput
from hadpo.runs import BadEnvironment

if TYPE_CHECKING:
    import gradio  # pyright: ignore[reportMissingImports]
    import uvicorn  # pyright: ignore[reportMissingImports]
    from starlette.types import ASGIApp  # pyright: ignore[reportMissingImports]

HOST = "127.0.0.1"
log = logging.getLogger(__name__)


def serve(
    recipe: str = "mini/llava",
    *,
    tuned: str = "",
    against: str = "",
    run: str = "",
    judge: str = "oracle",
    judge_model: str = "",
    limits: Mapping[str, float] | None = None,
    port: int = 7860,
    when_ready: Callable[[str], None] = log.info,
) -> None:
    """Load both models and serve the page until the process is interrupted.

    The arguments are the options of `hadpo page`, whose help says what each does; `tuned` is its
    --adapter. `limits` has the judge's max_cost_usd, input_price and output_price; `when_ready` is
    called with the address once the page can be opened.

    Raises:
        BadInput: what is named is not there, or the port is in use.
        BadEnvironment: gradio is not installed.
    """
    if importlib.util.find_spec("gradio") is None:
        raise BadEnvironment("the page needs gradio: pip install -e '.[page]'")
    listening = _listen(port)
    # Before gradio is imported: it reads them once, and would look up names on the network.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    with tempfile.TemporaryDirectory(prefix="hadpo-page-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # gone with the process, uploads or not
        gc.disable()  # imports make a million objects that all stay: a search finds nothing
        from hadpo.page.app import build
        from hadpo.page.shelf import shelf_of, speakers

        # Errors first: loading weights takes time.
        shelf = shelf_of(recipe, run, judge, judge_model, limits or {})
        app = mount(build(speakers(recipe, tuned, against), shelf))
        address = f"http://{HOST}:{listening.getsockname()[1]}/"
        gc.freeze()
        gc.enable()
        server_of(app, lambda: when_ready(address)).run(sockets=[listening])


def mount(page: "gradio.Blocks") -> "ASGIApp":
    """The page behind its gate: only this machine's names, no file, nothing from outside."""
    import fastapi  # pyright: ignore[reportMissingImports]
    import gradio  # pyright: ignore[reportMissingImports]
    from starlette.middleware.trustedhost import TrustedHostMiddleware  # pyright: ignore[reportMissingImports]

    from hadpo.page.app import CSS, theme
    from hadpo.page.uploads import Gate

    app = gradio.mount_gradio_app(
        fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        path="/",
        server_name=HOST,
        footer_links=[],
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=theme(),
        css=CSS,
    )
    return TrustedHostMiddleware(Gate(app), allowed_hosts=[HOST, "localhost"])


def _listen(port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
    except OSError as error:
        listening.close()
        raise BadInput(f"port {port} of {HOST}: {error.strerror}; choose another --port") from error
    return listening


def server_of(
    app: "ASGIApp", when_ready: Callable[[], None] = lambda: None, *, seconds: float = 60.0
) -> "uvicorn.Server":
    """The server of an app; a request, head and body, that does not arrive in `seconds` is left.

    Args:
        app: what answers.
        when_ready: is called once it listens.
        seconds: uvicorn's own limit ends with the first byte.
    """
    import h11  # pyright: ignore[reportMissingImports]
    import uvicorn  # pyright: ignore[reportMissingImports]
    from uvicorn.protocols.http.h11_impl import H11Protocol  # pyright: ignore[reportMissingImports]

    class Server(uvicorn.Server):
        """Calls `when_ready` once it listens."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            when_ready()

    class Arrival(H11Protocol):
        """Hangs up on a request that is late."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.late = self.loop.call_later(seconds, transport.close)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):  # it is whole
                self.late.cancel()
            elif self.late.cancelled():  # it is the first piece of another
                self.late = self.loop.call_later(seconds, self.transport.close)

        def connection_lost(self, exc: Exception | None) -> None:
            self.late.cancel()
            super().connection_lost(exc)

    settings = uvicorn.Config(app, http=Arrival, log_level="warning", timeout_graceful_shutdown=3)
    return Server(settings)
