"""Serve the chat: browser UI and REST API on one port.

    python launch.py [--host H] [--port P] [--data-dir D] [--settings F] [--demo]

The first start creates the data directory, the secrets and the database, fetches the demo
model when no model is there, and prints a one-time link that creates the first administrator.
"""

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chat_app.app import App
    from chat_app.settings import Settings

log = logging.getLogger("launch")
REREAD_SECONDS = 10
COLLECT_AFTER = 50_000  # new objects


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, parsed."""
    from chat_app import settings

    parser = argparse.ArgumentParser(
        prog="launch.py", description="Serve the paid chat: browser UI and REST API on one port."
    )
    parser.add_argument("--host", help="address to listen on (default: settings, 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port (default: settings, 7860; 0: a free one)")
    parser.add_argument("--data-dir", type=Path, help="where the database and secrets live")
    parser.add_argument(
        "--settings", type=Path, default=settings.DEFAULT_FILE, help="the settings file"
    )
    parser.add_argument(
        "--demo",
        action="store_true",
        help="fill an empty installation with a made-up year and sign visitors in as its people",
    )
    return parser.parse_args(argv)


def read_settings(options: argparse.Namespace) -> "Settings":
    """Settings from the file and the environment, with the command line over both."""
    from chat_app import settings

    server = {
        name: value
        for name, value in (("host", options.host), ("port", options.port))
        if value is not None
    }
    over: dict[str, Any] = {"server": server} if server else {}
    if options.data_dir is not None:
        over["data_dir"] = options.data_dir
    return settings.load(options.settings, **over)


@contextmanager
def hardly_collecting() -> Iterator[None]:
    """For a program that starts: nearly all that it makes stays, and looking through it again and
    again for garbage took a seventh of the time.
    """
    usual = gc.get_threshold()
    gc.set_threshold(COLLECT_AFTER)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


@hardly_collecting()
def build_web(app: "App") -> Any:
    """REST and UI as one ASGI application with the app's life bound to it."""
    import ui
    from chat_app import api, schedule
    from chat_app.api.access import Access
    from chat_app.api.demo import Door
    from chat_app.flows.monitoring import Monitor
    from chat_app.jobs import Runner

    web = api.create(app)

    @asynccontextmanager
    async def lifespan(_web: object) -> AsyncIterator[None]:
        await app.start()
        runners = [
            Runner(app.db, app.clock, jobs)
            for jobs in (
                schedule.jobs(app),
                schedule.errands(app),
                schedule.chores(app),
                schedule.proofs(app),
            )
        ]
        for runner in runners:
            runner.start()
        keepers = [asyncio.create_task(keep(app)) for keep in (keep_progress, keep_secrets)]
        keepers.append(asyncio.create_task(app.telemetry.lag.watch()))
        monitor = Monitor(app)
        monitor.start()
        try:
            yield
        finally:
            await app.drain()
            for keeper in keepers:
                keeper.cancel()
            await asyncio.to_thread(monitor.stop)
            for runner in runners:
                await asyncio.to_thread(runner.stop)
            await app.stop()

    web.router.lifespan_context = lifespan
    page = ui.mount(app, web)
    return Access(Door(page, app) if app.demo else page, app.telemetry.traffic.saw)


async def keep_progress(app: "App") -> None:
    """Save the progress of running replies and stop those of suspended users, again and again."""
    from chat_app.flows import standing, sweep

    while True:
        await asyncio.sleep(app.settings.chat.progress_seconds)
        try:
            await sweep.save_progress(app)
            await standing.stop_barred(app)
        except Exception:
            log.exception("the progress of running answers could not be saved")


async def keep_secrets(app: "App") -> None:
    """Read the secrets again now and then: a command may have added or removed a key."""
    from chat_app.secrets import BadSecrets

    while True:
        await asyncio.sleep(REREAD_SECONDS)
        try:
            app.reread_secrets()
        except BadSecrets as error:
            log.error("%s The server goes on with the keys it has.", error)


def pull_demo_model(settings: "Settings") -> None:
    """Fetch the demo model when no model of the catalogue is there. A failure is not fatal."""
    from chat_app.errors import AppError
    from chat_app.llm import catalogue, loader
    from chat_app.llm.bar import bar

    if settings.llm.engine in ("script", "remote"):
        return
    entries = catalogue.offered()
    if any(loader.state(entry, settings.models_dir).state == "available" for entry in entries):
        return
    demo = next(entry for entry in entries if entry.demo)
    say(f"No model is here yet: fetching the demo model {demo.name}.")
    try:
        with bar() as tell:
            loader.pull(demo, settings.models_dir, tell)
    except AppError as error:
        say(f"{error} The chat starts without a model.")
    except OSError as error:
        say(f"{settings.models_dir}: {error.strerror}. The chat starts without a model.")
    else:
        say(f"{demo.name} is ready.")


def fill_demo(settings: "Settings") -> None:
    """Write the made-up year of the demonstration, once."""
    from tqdm import tqdm

    from chat_app.flows import demo

    with tqdm(leave=False, unit=" deeds", disable=not sys.stderr.isatty()) as line:

        def tell(done: int, total: int) -> None:
            line.total = total
            line.update(done - line.n)

        counts = demo.fill(settings, tell=tell)
    if counts:
        say(f"A made-up year of {counts['people']} people is in the books.")
    say("This is a demonstration: whoever opens the page is signed in. Staff sign in at /?leave")


def say(sentence: str) -> None:
    """A line for the person at the console."""
    print(sentence, flush=True)


async def serve(app: "App", setup_token: str | None) -> None:
    """Serve until a signal: the first one drains, a second one ends at once.

    `setup_token` is for the link that creates the first administrator.
    """
    import uvicorn

    from ui import connections

    class Server(uvicorn.Server):
        # uvicorn's own handler would close the listening socket before running answers ended.
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    server_settings = app.settings.server
    if server_settings.max_connections:
        # A database, models and logs need files too.
        connections.raise_file_limit(server_settings.max_connections + 1024)
    config = uvicorn.Config(
        build_web(app),
        host=server_settings.host,
        port=server_settings.port,
        log_config=None,  # its lines go where all others go
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=3,
        timeout_keep_alive=75,
        limit_concurrency=server_settings.max_connections or None,
        http=connections.limited(server_settings),
    )
    server = Server(config)
    loop = asyncio.get_running_loop()
    ending: list[asyncio.Task[None]] = []

    async def end() -> None:
        if app.link is not None:
            # Others take what comes now; followers of what is written here are served by them too.
            for listening in server.servers:
                listening.close()
        await app.drain()
        # Open pages keep a heartbeat; that it is cut off now is no error worth a traceback.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        server.should_exit = True

    def on_signal() -> None:
        if ending:
            server.should_exit = server.force_exit = True
        else:
            say("Ending: no new messages; running answers may finish.")
            ending.append(asyncio.create_task(end()))

    for name in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(name, on_signal)
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():
        await asyncio.sleep(0.05)
    if server.started:
        # What stays for good is not looked through again: without this each full collection
        # held everybody up for up to half a second.
        gc.collect()
        gc.freeze()
        port = server.servers[0].sockets[0].getsockname()[1]
        host = server_settings.host
        shown = "localhost" if host in {"127.0.0.1", "0.0.0.0", "::"} else host  # noqa: S104
        url = server_settings.public_url.rstrip("/") or f"http://{shown}:{port}"
        say(f"Serving on {url}")
        if host not in {"127.0.0.1", "::1", "localhost"} and not url.startswith("https://"):
            log.warning("Served without https: set server.public_url and put TLS in front of it.")
        if setup_token is not None:
            say(f"Create the first administrator (works once): {url}/?setup={setup_token}")
    await serving


def main(argv: list[str] | None = None) -> int:
    """Run the program; the exit code is 0 after a clean end and 2 for a wrong start."""
    from chat_app import logs
    from chat_app.errors import AppError
    from chat_app.monitor import heap

    heap.share()
    # Forecasts are small sums: threads that wait for each other would take what answers need.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    options = arguments(argv)
    with ExitStack() as ending:
        try:
            settings = read_settings(options)
            logs.configure(**settings.logging.model_dump())
            pull_demo_model(settings)
            with hardly_collecting():
                from chat_app.app import build
                from chat_app.backups import keeping
                from chat_app.flows import signup

                ending.enter_context(keeping.serving(settings.data_dir))
                if options.demo:
                    fill_demo(settings)
                app = build(settings)
                app.demo = options.demo
                setup_token = signup.ensure_first_admin(app)
        except AppError as error:
            print(error, file=sys.stderr)
            return 2
        except OSError as error:  # a disk that is full, or belongs to somebody else
            place = f" at {error.filename}" if error.filename else ""
            print(
                f"The program cannot start: {error.strerror}{place}. Mend that and start again; "
                "python -m chat_app selfcheck says what this machine lacks.",
                file=sys.stderr,
            )
            return 2
        with suppress(ImportError):
            import uvloop

            uvloop.install()
        asyncio.run(serve(app, setup_token))
    return 0


if __name__ == "__main__":
    sys.exit(main())
