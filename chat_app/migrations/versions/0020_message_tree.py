"""a tree of messages, temporary conversations, answers side by side"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# A question follows the newest answer to the question before it, or that question itself.
_CHAINS = """
UPDATE message SET parent_id = (
    SELECT COALESCE(
        (SELECT answer.id FROM message AS answer
         WHERE answer.parent_id = earlier.id AND answer.role = 'assistant'
         ORDER BY answer.created_at DESC, answer.id DESC LIMIT 1),
        earlier.id)
    FROM message AS earlier
    WHERE earlier.conversation_id = message.conversation_id AND earlier.role = 'user'
      AND (earlier.created_at < message.created_at
           OR (earlier.created_at = message.created_at AND earlier.id < message.id))
    ORDER BY earlier.created_at DESC, earlier.id DESC LIMIT 1)
WHERE role = 'user'
"""
# Before, no answer continued another one: it takes the place of the one above it, step by step.
_CONTINUED = """
UPDATE message SET parent_id = (SELECT above.parent_id FROM message AS above
                                WHERE above.id = message.parent_id)
WHERE role = 'assistant'
  AND EXISTS (SELECT 1 FROM message AS above
              WHERE above.id = message.parent_id AND above.role = 'assistant')
"""


def upgrade() -> None:
    op.add_column("conversation", sa.Column("leaf_id", sa.String(), nullable=True))
    op.add_column("conversation", sa.Column("temporary_until", _BIG, nullable=True))
    op.create_index(
        "ix_conversation_temporary_until",
        "conversation",
        ["temporary_until"],
        sqlite_where=sa.text("temporary_until IS NOT NULL"),
        postgresql_where=sa.text("temporary_until IS NOT NULL"),
    )
    op.add_column("reply", sa.Column("pair_id", sa.String(), nullable=True))
    _rule("role = 'user' OR parent_id IS NOT NULL")
    op.execute(_CHAINS)


def downgrade() -> None:
    """Branches are laid flat: all questions in the order in which they were asked."""
    while op.get_bind().execute(sa.text(_CONTINUED)).rowcount:
        pass
    op.execute("UPDATE message SET parent_id = NULL WHERE role = 'user'")
    _rule("(role = 'user') = (parent_id IS NULL)")
    op.drop_column("reply", "pair_id")
    # What an older program would show, but was promised to be in no list.
    op.execute(
        "UPDATE message SET content = '' WHERE conversation_id IN "
        "(SELECT id FROM conversation WHERE temporary_until IS NOT NULL)"
    )
    op.execute(
        "UPDATE conversation SET title = '', deleted_at = COALESCE(deleted_at, updated_at) "
        "WHERE temporary_until IS NOT NULL"
    )
    op.drop_index("ix_conversation_temporary_until", table_name="conversation")
    op.drop_column("conversation", "temporary_until")
    op.drop_column("conversation", "leaf_id")


def _rule(text: str) -> None:
    with op.batch_alter_table("message") as batch:
        batch.drop_constraint(op.f("ck_message_answer_has_question"), type_="check")
        batch.create_check_constraint(op.f("ck_message_answer_has_question"), text)
