"""What the REST API shows: one model per thing, so that nothing else gets out by accident.

Credits are decimal texts, money is minor units with a currency, times are RFC 3339 in UTC.
"""

from collections.abc import Sequence
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from chat_app.accounts.tables import SignInSession, User
from chat_app.chat import parameters
from chat_app.chat.conversations import ConversationRow, MessageRow
from chat_app.chat.feedback import Feedback
from chat_app.chat.parameters import Parameters
from chat_app.chat.search import Hit
from chat_app.chat.tables import Conversation
from chat_app.clock import rfc3339
from chat_app.credits.ledger import Balance, Transaction
from chat_app.credits.packages import Package
from chat_app.credits.payments.orders import Payment
from chat_app.credits.usage import UsageLine
from chat_app.flows.message import Quote
from chat_app.flows.reply import ReplyView
from chat_app.flows.shelf import ModelView
from chat_app.flows.signin import SignIn
from chat_app.money import format_credits

T = TypeVar("T")


class Shown(BaseModel):
    """Something the API answers with."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="null")


class Page(Shown, Generic[T]):
    """A page of a list. `next_cursor` goes into `?cursor=` for the next one."""

    items: list[T]
    next_cursor: str | None = None


class ErrorFacts(BaseModel):
    """`code` is stable and meant for programs, `message` for people. Facts may follow."""

    model_config = ConfigDict(extra="allow")

    message: str
    type: str
    code: str
    param: str | None


class ErrorBody(Shown):
    """Every refusal has this shape."""

    error: ErrorFacts


class MoneyOut(Shown):
    """Minor units (cents) of a currency."""

    amount: int
    currency: str


class UserOut(Shown):
    """An account as its owner sees it."""

    id: str
    username: str
    email: str
    email_verified: bool
    role: str
    created_at: str
    display_name: str = ""
    language: str = ""
    timezone: str = ""

    @classmethod
    def of(cls, user: User) -> "UserOut":
        return cls(
            id=str(user.id),
            username=user.username,
            email=user.email,
            email_verified=user.email_verified_at is not None,
            role=user.role,
            created_at=rfc3339(user.created_at),
            display_name=user.display_name,
            language=user.language,
            timezone=user.timezone,
        )


class SignInOut(Shown):
    """The tokens of a sign-in; `expires_in` is seconds of the access token."""

    access_token: str
    token_type: str
    expires_in: int
    refresh_token: str
    user: UserOut

    @classmethod
    def of(cls, signed_in: SignIn) -> "SignInOut":
        return cls(
            access_token=signed_in.access_token,
            token_type="Bearer",  # noqa: S106 - the name of a scheme
            expires_in=signed_in.expires_in,
            refresh_token=signed_in.refresh_token,
            user=UserOut.of(signed_in.user),
        )


class SessionOut(Shown):
    """A sign-in on some device; `current` is the one that asks."""

    id: str
    created_at: str
    last_seen_at: str
    ip: str
    agent: str
    current: bool

    @classmethod
    def of(cls, row: SignInSession, *, current: str) -> "SessionOut":
        return cls(
            id=row.id,
            created_at=rfc3339(row.created_at),
            last_seen_at=rfc3339(row.seen_at),
            ip=row.ip,
            agent=row.agent,
            current=row.id == current,
        )


class BalanceOut(Shown):
    """Credits of an account: `available` is what is neither spent nor held."""

    total: str
    held: str
    available: str
    debt: str

    @classmethod
    def of(cls, balance: Balance) -> "BalanceOut":
        return cls(
            total=format_credits(balance.total),
            held=format_credits(balance.held),
            available=format_credits(balance.available),
            debt=format_credits(balance.debt),
        )


class TierOut(Shown):
    """Rates from a month's volume on: `from` credits or answers of the month, by `unit`."""

    unit: str
    from_amount: str | int = Field(alias="from")
    per_message: str | None
    input_per_million: str | None
    output_per_million: str | None
    per_image: str | None


class PriceOut(Shown):
    """A price in credits; parts that do not apply are null."""

    kind: str
    per_message: str | None
    input_per_million: str | None
    output_per_million: str | None
    per_image: str | None
    version: int
    tiers: list[TierOut] = []


class ModelOut(Shown):
    """A model for sale. `reason` says what to do when it is not available."""

    id: str
    name: str
    price: PriceOut
    context_tokens: int
    state: str
    reason: str
    available: bool
    demo: bool
    sees_images: bool

    @classmethod
    def of(cls, model: ModelView) -> "ModelOut":
        return cls(
            id=model.id,
            name=model.name,
            price=PriceOut.model_validate(model.price.as_json()),
            context_tokens=model.context_tokens,
            state=model.state,
            reason=model.reason,
            available=model.available,
            demo=model.demo,
            sees_images=model.sees_images,
        )


class QuoteOut(Shown):
    """What a message would cost: never more than `maximum`."""

    prompt_tokens: int
    likely: str
    maximum: str
    price_version: int
    available: str

    @classmethod
    def of(cls, quote: Quote) -> "QuoteOut":
        return cls(
            prompt_tokens=quote.prompt_tokens,
            likely=format_credits(quote.likely),
            maximum=format_credits(quote.maximum),
            price_version=quote.price_version,
            available=format_credits(quote.available),
        )


class UsageOut(Shown):
    """Tokens of an answer."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class ReplyOut(Shown):
    """An answer with what it cost. `error` is null unless the answer broke off.

    Of the conversation before it, the first `dropped_messages` did not fit and were not read.
    A `cached` answer repeats an earlier one; no token of its prompt needed work. `payer` is the
    organisation that paid, as `org:7`, or null; `balance` is the caller's own.
    """

    reply_id: str
    conversation_id: str
    message_id: str
    model: str
    state: str
    content: str
    finish_reason: str | None
    usage: UsageOut
    charged: str
    payer: str | None
    balance: BalanceOut
    receipt_id: str | None
    cached: bool
    dropped_messages: int
    created_at: str
    error: ErrorFacts | None = None

    @classmethod
    def of(cls, reply: ReplyView, *, error: dict[str, Any] | None = None) -> "ReplyOut":
        return cls(
            reply_id=reply.reply_id,
            conversation_id=reply.conversation_id,
            message_id=reply.message_id,
            model=reply.model,
            state=reply.state,
            content=reply.content,
            finish_reason=reply.finish_reason,
            usage=UsageOut(
                prompt_tokens=reply.prompt_tokens,
                completion_tokens=reply.completion_tokens,
                cached_tokens=reply.cached_tokens,
            ),
            charged=format_credits(reply.charged),
            payer=None if reply.org_id is None else f"org:{reply.org_id}",
            balance=BalanceOut.of(reply.balance),
            receipt_id=reply.receipt_id,
            cached=reply.cached,
            dropped_messages=reply.dropped_messages,
            created_at=rfc3339(reply.created_at),
            error=ErrorFacts.model_validate(error) if error else None,
        )


class ReplyStateOut(Shown):
    """Where an answer stands."""

    reply_id: str
    state: str


class ConversationOut(Shown):
    """A conversation in the list."""

    id: str
    title: str
    model: str
    created_at: str
    updated_at: str
    message_count: int | None = None
    temporary: bool = False
    pinned: bool
    archived: bool
    folder_id: str | None

    @classmethod
    def of(cls, row: ConversationRow | Conversation) -> "ConversationOut":
        return cls(
            id=row.id,
            title=row.title,
            model=row.model,
            created_at=rfc3339(row.created_at),
            updated_at=rfc3339(row.updated_at),
            message_count=row.message_count if isinstance(row, ConversationRow) else None,
            temporary=isinstance(row, Conversation) and row.temporary_until is not None,
            pinned=row.pinned if isinstance(row, ConversationRow) else row.pinned_at is not None,
            archived=(
                row.archived if isinstance(row, ConversationRow) else row.archived_at is not None
            ),
            folder_id=row.folder_id,
        )


class ImageOut(Shown):
    """An image of a message: `GET /api/chat/images/{id}` gives its file. Sizes in pixels."""

    id: str
    type: str
    width: int
    height: int


class SettingsOut(Shown):
    """How answers are written; null is the model's own."""

    system: str | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    max_tokens: int | None

    @classmethod
    def of(cls, settings: Parameters) -> "SettingsOut":
        return cls(
            system=settings.system,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=settings.seed,
            max_tokens=settings.max_tokens,
        )


class FeedbackOut(Shown):
    """What the caller thought of an answer."""

    message_id: str
    vote: str
    reasons: list[str]
    note: str

    @classmethod
    def of(cls, given: Feedback) -> "FeedbackOut":
        return cls(
            message_id=given.message_id,
            vote=given.vote,
            reasons=list(given.reasons),
            note=given.note,
        )


class MessageOut(Shown):
    """A message. `charged` is null for questions.

    Of the conversation before an answer, the first `dropped_messages` did not fit and were not
    read. A `cached` answer repeats an earlier one. It follows `parent_id`; `siblings` are all that
    do, itself at `sibling_index` (from 0). An answer whose parent is an answer continues that one.
    """

    id: str
    parent_id: str | None
    siblings: list[str]
    sibling_index: int
    role: str
    content: str
    model: str
    created_at: str
    reply_id: str | None
    charged: str | None
    finish_reason: str | None
    error_code: str | None
    error_message: str | None
    state: str | None
    dropped_messages: int
    cached: bool
    images: list[ImageOut]
    feedback: FeedbackOut | None

    @classmethod
    def of(cls, row: MessageRow) -> "MessageOut":
        return cls(
            id=row.id,
            parent_id=row.parent_id,
            siblings=list(row.siblings),
            sibling_index=row.sibling_index,
            role=row.role,
            content=row.content,
            model=row.model,
            created_at=rfc3339(row.created_at),
            reply_id=row.reply_id,
            charged=None if row.charged is None else format_credits(row.charged),
            finish_reason=row.finish_reason,
            error_code=row.error_code,
            error_message=row.error_message,
            state=row.state,
            dropped_messages=row.dropped_messages,
            cached=row.cached,
            images=[
                ImageOut(
                    id=image.id, type=f"image/{image.kind}", width=image.width, height=image.height
                )
                for image in row.images
            ],
            feedback=None if row.feedback is None else FeedbackOut.of(row.feedback),
        )


class OneMessageOut(MessageOut):
    """A message, and the conversation where it belongs."""

    conversation_id: str

    @classmethod
    def alone(cls, row: MessageRow, conversation_id: str) -> "OneMessageOut":
        return cls(**MessageOut.of(row).model_dump(), conversation_id=conversation_id)


class OpenConversationOut(ConversationOut):
    """A conversation with its messages and the answers that are still being written.

    The active path, which is shown and read by models, ends at `leaf_id`.
    """

    leaf_id: str | None
    messages: list[MessageOut]
    running: list[str]
    settings: SettingsOut

    @classmethod
    def opened(
        cls, row: Conversation, messages: Sequence[MessageRow], running: Sequence[str]
    ) -> "OpenConversationOut":
        shown = [MessageOut.of(message) for message in messages]
        line = ConversationOut.of(row).model_dump() | {"message_count": len(shown)}
        leaf = row.leaf_id or (shown[-1].id if shown else None)
        return cls(
            **line,
            leaf_id=leaf,
            messages=shown,
            running=list(running),
            settings=SettingsOut.of(parameters.load(row.settings)),
        )


class HitOut(Shown):
    """A message that a search found."""

    message_id: str
    conversation_id: str
    title: str
    role: str
    snippet: str
    model: str
    created_at: str
    charged: str | None
    cached: bool
    marks: list[tuple[int, int]] = Field(
        description="Where the matches begin and end in the snippet, in characters."
    )

    @classmethod
    def of(cls, hit: Hit) -> "HitOut":
        return cls(
            message_id=hit.message_id,
            conversation_id=hit.conversation_id,
            title=hit.title,
            role=hit.role,
            snippet=hit.snippet,
            model=hit.model,
            created_at=rfc3339(hit.created_at),
            charged=None if hit.charged is None else format_credits(hit.charged),
            cached=hit.cached,
            marks=list(hit.marks),
        )


class QueuedOut(Shown):
    """An answer that waits for its turn: its place in line and about how long it takes."""

    reply_id: str
    position: int
    expected_seconds: int


class ChatStatusOut(Shown):
    """How busy the chat is, for the caller and for all.

    `running` are the caller's answers that are being written, `conversations` where they are.
    """

    running: list[str]
    conversations: list[str]
    queued: list[QueuedOut]
    own_running: int
    own_waiting: int
    all_running: int
    all_waiting: int
    draining: bool


class PackageOut(Shown):
    """Credits for sale; the bonus comes on top."""

    id: str
    name: str
    price: MoneyOut
    credits: str
    bonus_credits: str

    @classmethod
    def of(cls, package: Package) -> "PackageOut":
        return cls(
            id=package.code,
            name=package.name,
            price=MoneyOut(amount=package.price.amount, currency=package.price.currency),
            credits=format_credits(package.credits),
            bonus_credits=format_credits(package.bonus_credits),
        )


class PaymentOut(Shown):
    """An order for credits. The offline provider has no checkout page: confirm it instead."""

    payment_id: str
    status: str
    provider: str
    checkout_url: str | None
    amount: MoneyOut
    package_id: str | None
    credits: str
    bonus_credits: str
    created_at: str

    @classmethod
    def of(cls, payment: Payment) -> "PaymentOut":
        return cls(
            payment_id=payment.id,
            status=payment.status,
            provider=payment.provider,
            checkout_url=payment.checkout_url if payment.status == "pending" else None,
            amount=MoneyOut(amount=payment.amount_minor, currency=payment.currency),
            package_id=payment.package_code,
            credits=format_credits(payment.credits),
            bonus_credits=format_credits(payment.bonus_credits),
            created_at=rfc3339(payment.created_at),
        )


class TransactionOut(Shown):
    """A movement of credits; `credits` is negative for what was spent."""

    id: str
    type: str
    credits: str
    balance_after: str
    description: str | None
    model: str | None
    reply_id: str | None
    reference: str | None
    created_at: str

    @classmethod
    def of(cls, row: Transaction) -> "TransactionOut":
        return cls(
            id=str(row.id),
            type=row.type,
            credits=format_credits(row.credits),
            balance_after=format_credits(row.balance_after),
            description=row.description,
            model=row.model,
            reply_id=row.reply_id,
            reference=row.reference,
            created_at=rfc3339(row.created_at),
        )


class UsageLineOut(Shown):
    """What one model was used for in the minute, day or month that `period` names."""

    period: str
    model: str
    messages: int
    prompt_tokens: int
    completion_tokens: int
    credits: str

    @classmethod
    def of(cls, period: str, row: UsageLine) -> "UsageLineOut":
        return cls(
            period=period,
            model=row.model,
            messages=row.messages,
            prompt_tokens=row.prompt_tokens,
            completion_tokens=row.completion_tokens,
            credits=format_credits(row.credits),
        )


class HealthOut(Shown):
    """`ok` or what is wrong; `checks` has a line for each part.

    `engine` says whether a model can answer, `redis` whether this process hears the others: `ok`,
    `lost`, or `off` where there are none. Without either the server is ready all the same.
    """

    status: str
    checks: dict[str, str]
    engine: str
    redis: Literal["ok", "lost", "off"]


class MetricsOut(Shown):
    """Counts for operators."""

    running: int
    waiting: int
    replies: int
    draining: bool
    uptime_seconds: float
    holds_open: int
    answer_cache: dict[str, Any]
    engine: dict[str, Any]


class AccountOut(UserOut):
    """An account as an administrator sees it."""

    suspended: bool
    last_login_at: str | None
    balance: BalanceOut | None = None
    welcome_refused: str | None = None

    @classmethod
    def seen(
        cls, user: User, balance: Balance | None = None, welcome_refused: str | None = None
    ) -> "AccountOut":
        return cls(
            **UserOut.of(user).model_dump(),
            suspended=user.suspended,
            last_login_at=None if user.last_login_at is None else rfc3339(user.last_login_at),
            balance=None if balance is None else BalanceOut.of(balance),
            welcome_refused=welcome_refused,
        )


class DashboardOut(Shown):
    """The program at a glance."""

    users: dict[str, int]
    metrics: MetricsOut
    health: HealthOut
    models: list[ModelOut]
