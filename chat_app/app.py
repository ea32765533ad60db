"""The App: the parts of the program, joined in one place and passed to whoever needs them."""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from chat_app import db as database
from chat_app import secrets
from chat_app.accounts import limits, openid, passwords
from chat_app.accounts.standing import Looks
from chat_app.backups import make as backups
from chat_app.chat.live import Replies
from chat_app.chat.relay import Relay
from chat_app.clock import Clock
from chat_app.credits import packages, pricing
from chat_app.credits.invoices import sellers, tax
from chat_app.credits.payments import choose
from chat_app.credits.payments.provider import Provider
from chat_app.credits.receipts import keys as receipt_keys
from chat_app.db import Database
from chat_app.llm import catalogue
from chat_app.llm.build import create
from chat_app.llm.cache import Cache
from chat_app.llm.engine import Engine
from chat_app.llm.fetch import Fetches
from chat_app.ml import registry
from chat_app.ml.fraud import Costs, Rules
from chat_app.ml.fraud.watch import Watch
from chat_app.money import MICRO
from chat_app.monitor import telemetry
from chat_app.monitor.telemetry import Telemetry
from chat_app.notify import wire
from chat_app.notify.wire import Wire
from chat_app.secrets import Secrets
from chat_app.settings import Settings
from chat_app.shared.link import Link
from chat_app.shared.windows import Windows

log = logging.getLogger(__name__)


@dataclass
class App:
    """What a flow needs. `draining` refuses new work while running answers end.

    `titles` are the jobs that name conversations, by conversation; `exports` are the users
    whose data is being packed. `looks` says how users with open streams stand, see
    `flows/standing.py`. `demo`: visitors are signed in as made-up people. `link` leads to the
    other processes of the installation, if there may be any, and `relay` to their replies. In a
    Space `hub` is Hugging Face, which people may sign in with.
    """

    settings: Settings
    clock: Clock
    secrets: Secrets
    db: Database
    engine: Engine
    limits: limits.Limits
    passwords: passwords.Passwords
    cache: Cache
    receipt_keys: list[receipt_keys.ReceiptKey]
    wire: Wire
    payments: Provider
    fraud: Watch
    fetches: Fetches
    telemetry: Telemetry
    replies: "Replies[object]" = field(default_factory=Replies)
    titles: "dict[str, asyncio.Task[None]]" = field(default_factory=dict)
    exports: set[int] = field(default_factory=set)
    outlooks: "dict[int, object]" = field(default_factory=dict)
    outlook_thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="outlook")
    )
    looks: Looks = field(default_factory=Looks)
    link: Link | None = None
    relay: Relay | None = None
    hub: openid.Provider | None = None
    draining: bool = False
    demo: bool = False
    started_monotonic: float = field(default_factory=time.monotonic)

    async def start(self) -> None:
        """Start what needs an event loop: the engine, and the link to other processes."""
        await self.engine.start()
        if self.link is not None:
            await self.link.start()

    def forget_kept(self, user_id: int, *, here: bool = False) -> None:
        """Forget the answers that are kept in memory of a user, in all processes or just `here`."""
        self.cache.forget(str(user_id))
        if self.link is not None and not here:
            self.link.tell_soon("forget", user=user_id)

    def reread_secrets(self) -> None:
        """Take over the keys that a command added or removed; raises BadSecrets."""
        self.secrets = secrets.reread(self.settings.data_dir)
        self.passwords.pepper = self.secrets.pepper

    async def drain(self) -> None:
        """Refuse new replies and wait for the running ones; stop them when time is up.

        Takes at most `drain_seconds` and a few seconds for the last settlements.
        """
        self.draining = True
        for title in list(self.titles.values()):
            title.cancel()
        jobs = [live.task for live in self.replies if live.task is not None]
        if jobs:
            log.info("waiting for %d running answers", len(jobs))
            await asyncio.wait(jobs, timeout=self.settings.server.drain_seconds)
        for live in self.replies:
            live.stop_wanted.set()
        late = [job for job in jobs if not job.done()]
        if late:
            await asyncio.wait(late, timeout=5)

    async def stop(self) -> None:
        """Drain, end the engine and close the database."""
        await self.drain()
        if self.relay is not None:
            self.relay.close()
        if self.link is not None:
            await self.link.close()
        await asyncio.to_thread(self.fetches.close)
        await self.engine.close()
        self.passwords.close()
        self.outlook_thread.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self.db.close)
        self.telemetry.recorder.store.close()


def build(settings: Settings, *, clock: Clock | None = None) -> App:
    """Join the parts: secrets, a migrated database with prices, packages and rates, the engine.

    Reaches no network and loads no model.
    """
    clock = clock or Clock()
    provider = choose.create(settings.payments)
    keys = secrets.load_or_create(settings.data_dir)
    db = Database(settings.database_url)
    with backups.before_migration(db, settings, now=clock.micros()):
        database.migrate(db)
    engine = create(settings)
    stock(db, settings, now=clock.micros())
    link = _link(settings, keys)
    replies: Replies[object] = Replies()
    app = App(
        settings=settings,
        clock=clock,
        secrets=keys,
        db=db,
        engine=engine,
        limits=limits.Limits(
            settings.limits, slots=engine.slots, windows=None if link is None else Windows(link)
        ),
        passwords=passwords.Passwords(keys.pepper, micros=clock.micros),
        cache=Cache(settings.llm.cache),
        receipt_keys=receipt_keys.load_or_create(settings.data_dir),
        wire=Wire(
            allowed=wire.allow(settings.notifications.webhook_allow),
            seconds=settings.notifications.webhook_seconds,
        ),
        payments=provider,
        fraud=_watch(settings, keys, clock),
        fetches=Fetches(settings.models_dir),
        telemetry=telemetry.build(settings),
        replies=replies,
        link=link,
        relay=None if link is None else Relay(link, replies),
        hub=openid.of_environment(micros=clock.micros),
    )
    if link is not None:
        link.on("forget", lambda said: app.forget_kept(said["user"], here=True))
    return app


def _link(settings: Settings, keys: Secrets) -> Link | None:
    if not settings.redis.url:
        return None
    # Two installations may have one Redis and do not hear each other.
    own = secrets.subkey(keys.link_key, "redis").hex()[:12]
    return Link(settings.redis.url, prefix=f"chat:{own}")


def _watch(settings: Settings, keys: Secrets, clock: Clock) -> Watch:
    chosen = settings.fraud
    made = Watch(
        clock,
        key=secrets.subkey(keys.link_key, "fraud watch"),
        mode=chosen.mode,
        rules=Rules(
            accounts_per_address=chosen.accounts_per_address,
            redeems_per_code=chosen.redeems_per_code,
        ),
        costs=Costs(chosen.review_cost, chosen.loss_cost, chosen.false_block_cost),
    )
    # Known, and not read yet: a model is loaded by a job (`rollouts.follow`), never at the start.
    made.engine.registry = registry.of(settings.data_dir, keys.link_key)
    return made


def stock(db: Database, settings: Settings, *, now: int) -> None:
    """Put the first prices, packages and tax rates in, and who sells; what is there stays."""
    prices = {entry.id: entry.credits_per_message * MICRO for entry in catalogue.offered()}
    images = {
        entry.id: entry.credits_per_image * MICRO
        for entry in catalogue.offered()
        if entry.credits_per_image is not None
    }
    db.write(lambda session: pricing.seed(session, prices=prices, images=images, now=now))
    db.write(lambda session: packages.seed(session, now=now))
    seller = sellers.of(settings.business)
    db.write(lambda session: tax.seed(session, now=now))
    db.write(lambda session: sellers.keep(session, seller=seller, now=now))
