"""Settings: every knob once, typed, frozen, with unknown names refused by name.

`settings.toml` holds each default with a sentence; the environment wins over the file
(`CHAT_APP_SERVER__PORT=8000` is `port` in `[server]`). Secrets are never here, see
`chat_app/secrets.py`.
"""

import os
import tomllib
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from chat_app.errors import Invalid

PREFIX = "CHAT_APP_"
DEFAULT_FILE = Path(__file__).resolve().parent.parent / "settings.toml"
Count = Annotated[int, Field(ge=0)]
# Where lots of credits come from; `transfer` keeps the terms of the lot it was taken from.
Source = Literal["paid", "welcome", "bonus", "promo", "plan", "refund", "adjust"]
Seconds = Annotated[float, Field(gt=0)]
# Sites by their origin, separated by spaces.
_FRAMES = r"^(auto|(https://[a-z0-9.-]+(:\d+)?( |$))*)$"
# Addresses without a name, a password or a query, separated by spaces or commas.
_URLS = r"^[\s,]*(https?://[^\s,@?#/]+(/[^\s,@?#]*)?([\s,]+|$))*$"


class SettingsError(Invalid):
    """A setting is missing, unknown or out of range; the sentence names it."""

    code = "settings"


def zone(name: str) -> tzinfo:
    """A time zone by its name, such as `Europe/Berlin`; ValueError when there is none."""
    if name == "UTC":  # needs no table of zones, which small images lack
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError("is not a time zone; write one such as Europe/Berlin") from error


class Section(BaseModel):
    """One table of settings.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Server(Section):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 7860
    public_url: str = ""
    drain_seconds: Seconds = 30
    max_body_kib: Annotated[int, Field(ge=64)] = 2048
    max_other_body_kib: Annotated[int, Field(ge=16)] = 256
    max_import_kib: Annotated[int, Field(ge=64)] = 8192
    head_seconds: Annotated[float, Field(ge=0)] = 15
    stall_seconds: Annotated[float, Field(ge=0)] = 30
    max_connections: Count = 4096
    connections_per_address: Count = 256
    streams_per_address: Count = 128
    hsts_days: Count = 365
    framed_by: Annotated[str, Field(pattern=_FRAMES)] = "auto"


class DatabaseSettings(Section):
    url: str = ""


class Redis(Section):
    url: Annotated[str, Field(pattern=r"^((rediss?|unix)://\S+)?$")] = ""


class Admin(Section):
    username: str = ""
    email: str = ""
    password: str = ""


class Accounts(Section):
    welcome_credits: Annotated[int, Field(ge=0, le=10**9)] = 100
    require_verified_email: bool = False
    link_minutes: Annotated[int, Field(ge=5, le=1440)] = 30
    mail_pause_seconds: Annotated[int, Field(ge=0, le=3600)] = 60
    mails_per_day_per_address: Annotated[int, Field(ge=1, le=1000)] = 10
    disposable_domains: Literal["refuse", "no_free_credits", "allow"] = "no_free_credits"
    more_disposable_domains: str = ""
    password_min_length: Annotated[int, Field(ge=8, le=128)] = 12
    password_min_length_staff: Annotated[int, Field(ge=8, le=128)] = 15
    session_hours: Annotated[int, Field(ge=1)] = 168
    session_idle_hours: Annotated[int, Field(ge=1)] = 72
    access_minutes: Annotated[int, Field(ge=1, le=60)] = 10
    refresh_days: Annotated[int, Field(ge=1)] = 30
    fresh_minutes: Annotated[int, Field(ge=1, le=1440)] = 60
    keys_per_user: Count = 20
    money_second_factor: Literal["auto", "always", "enrolled"] = "auto"
    step_up_minutes: Annotated[int, Field(ge=1, le=1440)] = 10

    def shortest_password(self, role: str) -> int:
        """How many characters a password needs at least, by the role of its account."""
        staff = self.password_min_length_staff if role != "user" else 0
        return max(self.password_min_length, staff)


class Mail(Section):
    kind: Literal["outbox", "smtp"] = "outbox"
    sender: str = "ML Chat Billing <chat@localhost.localdomain>"
    host: str = "localhost"
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    tls: Literal["starttls", "tls", "none"] = "starttls"
    username: str = ""
    password: SecretStr = SecretStr("")


class Notifications(Section):
    low_credits: Count = 20
    critical_credits: Count = 5
    runout_days: Annotated[int, Field(ge=0, le=90)] = 3
    attempts: Annotated[int, Field(ge=1, le=50)] = 10
    retry_seconds: Seconds = 30
    keep_days: Annotated[int, Field(ge=7)] = 90
    webhooks_per_user: Count = 5
    webhook_seconds: Annotated[float, Field(gt=0, le=30)] = 5
    webhook_allow: str = ""


class Payments(Section):
    provider: Literal["offline", "stripe"] = "offline"
    stripe_api_key: SecretStr = SecretStr("")
    stripe_webhook_secret: SecretStr = SecretStr("")
    stripe_api_base: Annotated[str, Field(pattern=r"^(https?://[^\s@?#]+)?$")] = ""


class Business(Section):
    name: Annotated[str, Field(max_length=120)] = "ML Chat Billing"
    address: Annotated[str, Field(max_length=400)] = ""
    country: Annotated[str, Field(pattern=r"^([A-Z]{2})?$")] = ""
    registration: Annotated[str, Field(max_length=60)] = ""
    vat_id: Annotated[str, Field(max_length=32)] = ""
    email: Annotated[str, Field(max_length=254)] = ""
    note: Annotated[str, Field(max_length=400)] = ""
    tax: Literal["off", "seller", "destination"] = "off"
    invoice_prefix: Annotated[str, Field(pattern=r"^[A-Z0-9]{1,12}$")] = "INV"
    credit_note_prefix: Annotated[str, Field(pattern=r"^[A-Z0-9]{1,12}$")] = "CN"
    payment_days: Annotated[int, Field(ge=0, le=365)] = 14
    timezone: str = "UTC"

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        zone(name)
        return name

    @property
    def zone(self) -> tzinfo:
        """The time zone itself."""
        return zone(self.timezone)


class AnswerCache(Section):
    entries: Count = 500
    max_mib: Annotated[int, Field(ge=1)] = 16
    ttl_seconds: Seconds = 3600


class Credits(Section):
    custom_min: Annotated[int, Field(ge=1, le=10**9)] = 100
    custom_max: Annotated[int, Field(ge=1, le=10**9)] = 1_000_000
    custom_cents_per_100: Annotated[int, Field(ge=1, le=10**6)] = 100
    priorities: dict[Source, int] = {}
    lifetimes_days: dict[Source, Annotated[int, Field(ge=1, le=36_500)]] = {}
    periodic_credits: Annotated[int, Field(ge=0, le=10**6)] = 0
    periodic_every: Literal["week", "month"] = "month"
    periodic_for: Annotated[
        str, Field(pattern=r"^(everyone|user|admin|plan:[a-z0-9][a-z0-9_-]{0,31})$")
    ] = "everyone"
    free_after_hours: Count = 0
    plan_retries: Annotated[int, Field(ge=0, le=20)] = 4
    plan_retry_hours: Annotated[int, Field(ge=1, le=720)] = 24
    plan_unpaid: Literal["pause", "end"] = "pause"


class Transfers(Section):
    min_credits: Annotated[int, Field(ge=1, le=10**9)] = 1
    max_credits: Annotated[int, Field(ge=0, le=10**9)] = 10_000
    max_credits_per_day: Annotated[int, Field(ge=0, le=10**9)] = 20_000
    sources: Annotated[str, Field(pattern=r"^[a-z ]*$")] = "paid adjust refund transfer"


class Fraud(Section):
    mode: Literal["off", "watch", "act"] = "act"
    accounts_per_address: Count = 8
    redeems_per_code: Count = 0
    review_cost: Annotated[float, Field(gt=0, le=10**9)] = 1
    loss_cost: Annotated[float, Field(gt=0, le=10**9)] = 20
    false_block_cost: Annotated[float, Field(gt=0, le=10**9)] = 30


class Orgs(Section):
    max_members: Annotated[int, Field(ge=1, le=10_000)] = 100
    max_per_user: Annotated[int, Field(ge=0, le=1000)] = 10


class Pricing(Section):
    cached_percent: Annotated[int, Field(ge=0, le=100)] = 100


class Revenue(Section):
    breakage: Literal["remote", "proportional"] = "remote"
    expected_breakage: Annotated[float, Field(ge=0, lt=1)] = 0.0
    plans: Literal["over_time", "by_use"] = "over_time"
    proration: Literal["millisecond", "day", "even", "even_prorated"] = "day"
    reminder_days: Annotated[str, Field(pattern=r"^(-?\d{1,3}( -?\d{1,3})*)?$")] = "-3 1 8 15"
    write_off_days: Annotated[int, Field(ge=0, le=999)] = 0


class Costs(Section):
    watts: Annotated[float, Field(ge=0, le=100_000)] = 0.0
    cents_per_kwh: Annotated[float, Field(ge=0, le=10_000)] = 0.0
    cents_per_hour: Annotated[float, Field(ge=0, le=10_000_000)] = 0.0
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"


class Script(Section):
    tokens: Annotated[int, Field(ge=0)] = 40
    tokens_per_second: Annotated[float, Field(ge=0)] = 40
    first_token_ms: Annotated[float, Field(ge=0)] = 50
    context_tokens: Count = 0
    slots: Count = 0
    fault: Annotated[str, Field(pattern=r"^(none|oom|empty|hostile|error_at:\d+|hang_at:\d+)$")] = (
        "none"
    )


class Remote(Section):
    api_key: SecretStr = SecretStr("")
    model_names: dict[str, str] = {}
    connect_seconds: Seconds = 5
    first_token_seconds: Seconds = 120
    idle_seconds: Seconds = 60
    failures_to_open: Annotated[int, Field(ge=1)] = 3
    open_seconds: Seconds = 15
    answers_per_server: Annotated[int, Field(ge=1)] = 64
    share_prefixes: bool = False


class Llm(Section):
    engine: Literal[
        "auto", "native", "openvino", "llamacpp", "transformers", "remote", "script"
    ] = "auto"
    remote_url: Annotated[str, Field(pattern=_URLS)] = ""
    threads: Annotated[int, Field(ge=0)] = 0
    default_model: str = "gemma-3-1b-it"
    quantization: Literal["auto", "nf4", "int8", "none"] = "auto"
    max_output_tokens: Annotated[int, Field(ge=1, le=8192)] = 1024
    answer_seconds: Seconds = 600
    stall_seconds: Seconds = 120
    load_seconds: Seconds = 600
    idle_unload_minutes: Annotated[float, Field(ge=0)] = 30
    warm_worker: bool = True
    cache: AnswerCache = AnswerCache()
    remote: Remote = Remote()
    script: Script = Script()


class Chat(Section):
    max_message_kib: Annotated[int, Field(ge=1)] = 256
    lease_seconds: Seconds = 15
    progress_seconds: Seconds = 2
    updates_per_second: Annotated[float, Field(gt=0, le=30)] = 8
    direct_updates: bool = True
    auto_titles: bool = True
    max_images: Annotated[int, Field(ge=0, le=16)] = 4
    max_image_megapixels: Annotated[int, Field(ge=1, le=100)] = 25


class PlanLimits(Section):
    """What a plan's subscribers may have instead; None: what everybody may."""

    running: Count | None = None
    waiting: Count | None = None
    per_minute: Count | None = None


class Limits(Section):
    running_per_user: Count = 2
    waiting_per_user: Count = 2
    plans: dict[str, PlanLimits] = {}
    queue_total: Count = 200
    max_wait_seconds: Count = 120
    requests_per_minute: Count = 120
    transfers_per_hour: Count = 30
    registrations_per_hour_per_ip: Count = 20
    login_failures_per_15_minutes: Count = 10
    reset_mails_per_hour: Count = 5
    code_failures_per_15_minutes: Count = 10
    welcomes_per_day_per_network: Count = 10
    welcomes_per_day_per_domain: Count = 50
    share_pages_per_minute_per_ip: Count = 120


class Logging(Section):
    format: Literal["auto", "json", "console"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"
    file: str = ""
    max_mib: Annotated[int, Field(ge=1, le=10_000)] = 50
    keep: Annotated[int, Field(ge=1, le=100)] = 5


class Backups(Section):
    every_hours: Count = 24
    folder: str = ""
    keep_daily: Annotated[int, Field(ge=1, le=366)] = 7
    keep_weekly: Annotated[int, Field(ge=0, le=520)] = 4
    complete: bool = False
    before_migration: bool = True
    drill_days: Count = 7


class Monitor(Section):
    sample_seconds: Annotated[float, Field(ge=1, le=60)] = 5
    minutes_days: Annotated[int, Field(ge=1, le=60)] = 3
    quarters_days: Annotated[int, Field(ge=1, le=730)] = 45
    days: Annotated[int, Field(ge=1, le=7300)] = 730
    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    prove_hours: Annotated[int, Field(ge=1, le=720)] = 24
    alert_days: Annotated[int, Field(ge=7, le=3650)] = 365


class Settings(BaseSettings):
    """All settings. `load()` makes one; nothing in the program keeps it in a module."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    data_dir: Path = Path("data")
    models_dir: Path = Path("models_cache")
    server: Server = Server()
    database: DatabaseSettings = DatabaseSettings()
    redis: Redis = Redis()
    admin: Admin = Admin()
    accounts: Accounts = Accounts()
    mail: Mail = Mail()
    notifications: Notifications = Notifications()
    payments: Payments = Payments()
    credits: Credits = Credits()
    transfers: Transfers = Transfers()
    fraud: Fraud = Fraud()
    orgs: Orgs = Orgs()
    pricing: Pricing = Pricing()
    revenue: Revenue = Revenue()
    costs: Costs = Costs()
    business: Business = Business()
    llm: Llm = Llm()
    chat: Chat = Chat()
    limits: Limits = Limits()
    logging: Logging = Logging()
    backups: Backups = Backups()
    monitor: Monitor = Monitor()

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL; SQLite in the data dir when none is set."""
        return self.database.url or f"sqlite:///{self.data_dir / 'chat.db'}"

    @property
    def site(self) -> str:
        """The address of this installation in links that leave it, without a slash at the end."""
        everywhere = self.server.host in {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound
        host = "localhost" if everywhere else self.server.host
        local = f"http://{host}:{self.server.port}"
        return (self.server.public_url or local).rstrip("/")


def load(path: Path = DEFAULT_FILE, **overrides: Any) -> Settings:
    """Settings from the file, the environment over it, and `overrides` over both.

    Raises SettingsError naming the file and the key for a missing file, a key nobody knows
    (in the file or as an environment variable), a wrong type or a value out of range.
    """
    if not path.is_file():
        raise SettingsError(f"The settings file {path} does not exist. Give one with --settings.")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}.") from error
    _refuse_unknown_environment()

    class Layered(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, values)

    try:
        return Layered(**overrides)
    except ValidationError as error:
        raise SettingsError(_sentence(path, error)) from error


def _environment() -> list[str]:
    return sorted(name for name in os.environ if name.upper().startswith(PREFIX))


def known_names() -> set[str]:
    """The environment names of all settings, e.g. `CHAT_APP_SERVER__PORT`."""

    def walk(model: type[BaseModel], prefix: str) -> set[str]:
        names = set()
        for name, field in model.model_fields.items():
            kind = field.annotation
            path = f"{prefix}{name.upper()}"
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                names |= walk(kind, f"{path}__")
            else:
                names.add(path)
        return names

    return walk(Settings, PREFIX)


def _refuse_unknown_environment() -> None:
    unknown = [name for name in _environment() if name.upper() not in known_names()]
    if unknown:
        raise SettingsError(
            f"{', '.join(unknown)} is not a setting. The names are in settings.toml; "
            "in the environment a section and its key are joined by two underscores."
        )


def _sentence(path: Path, error: ValidationError) -> str:
    problems = "; ".join(
        f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()
    )
    return f"A setting in {path} or in the environment is wrong: {problems}."
