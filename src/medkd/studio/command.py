"""The command `medkd studio`: serve the pages on this machine until interrupted.

In: where to listen and which folders to show. Out: nothing of its own; what it starts are detached
runs, which go on without it. Not done here: the pages (`studio.app`), who may come in
(`studio.auth`).
"""

import contextlib
import secrets
import socket
from pathlib import Path

from pydantic import Field

from medkd.core.config import Options
from medkd.core.errors import InputError, from_os_error
from medkd.core.reviews import find_user_name

LOOPBACK = "127.0.0.1"


class Config(Options):
    """Where the studio listens, and which folders it shows."""

    port: int = Field(default=7860, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    host: str = ""
    """Address to listen on; default: this machine only. With an address, the studio makes a token,
    shows it once and asks each browser for it."""
    runs: Path = Path("runs")
    """Directory whose runs are listed, and in which new runs are made."""
    data: tuple[Path, ...] = ()
    """Further folder that may be read (cases, datasets, models, recipes); repeat for more."""


def run(config: Config) -> None:
    """Serve until interrupted."""
    import uvicorn

    from medkd.studio.app import make_app

    listener = _listen(config.host or LOOPBACK, config.port)
    port = int(listener.getsockname()[1])
    token = secrets.token_urlsafe(24) if config.host else ""
    config.runs.mkdir(parents=True, exist_ok=True)
    app = make_app(config.runs, config.data, token)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
    )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again when all is closed
        print(describe_address(config.host, port, token), flush=True)
        server.run(sockets=[listener])
    if not server.force_exit:
        print("studio: closed; runs that were started go on", flush=True)


def describe_address(host: str, port: int, token: str) -> str:
    """Say where the studio is found, from here and from another machine."""
    lines = [f"studio: http://{host or 'localhost'}:{port}"]
    if token:
        lines.append(f"token:  {token}  (asked for once a browser; shown here only)")
    if host in ("", LOOPBACK, "localhost"):
        there = f"{find_user_name()}@{socket.gethostname()}"
        lines.append(f"from another machine: ssh -L {port}:localhost:{port} {there}")
    lines.append("Ctrl-C closes the studio; runs go on without it")
    return "\n".join(lines)


def _listen(host: str, port: int) -> socket.socket:
    """Take the port; raises InputError where it cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except socket.gaierror as error:
        raise InputError(
            "medkd studio: --host {}: no such address; use an address of this "
            "machine, or 0.0.0.0 for all",
            host,
        ) from error
    except OSError as error:
        raise from_os_error(error, f"medkd studio: {host}:{port}") from error
