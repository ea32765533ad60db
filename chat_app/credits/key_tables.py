"""Table of what API keys have spent. Knows a key by its name alone."""

from sqlalchemy import CheckConstraint, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from chat_app.credits.tables import _big, _key, _whole


class KeyBudget(SQLModel, table=True):
    """What one API key has used in a period, from whatever wallet, and has set aside.

    Periods: a `day` and a `month` in UTC, and `total`, which never ends. The limits are the
    key's, and may change meanwhile.
    """

    __tablename__ = "key_budget"
    __table_args__ = (
        CheckConstraint("period IN ('day', 'month', 'total')", name="period"),
        CheckConstraint(_whole("used"), name="used"),
        CheckConstraint(_whole("held"), name="held"),
        CheckConstraint("starts_at < ends_at", name="ends_at"),
        UniqueConstraint("key_id", "period", "starts_at", name="uq_key_budget_key_id_period"),
    )

    id: int | None = _key()
    key_id: str = Field(max_length=16)
    period: str = Field(max_length=8)
    starts_at: int = _big()
    ends_at: int = _big()
    used: int = _big(server_default=text("0"))
    held: int = _big(server_default=text("0"))
