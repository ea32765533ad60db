"""full-text search in messages"""

from alembic import op

from chat_app.migrations import full_text

revision = "0023"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    full_text.create(op.get_bind())


def downgrade() -> None:
    full_text.drop(op.get_bind())
