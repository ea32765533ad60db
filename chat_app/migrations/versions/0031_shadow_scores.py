"""what a shadow of the fraud model would have said"""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("fraud_assessment", sa.Column("shadow_version", sa.String(length=32)))
    op.add_column("fraud_assessment", sa.Column("shadow_score", sa.Integer()))


def downgrade() -> None:
    op.drop_column("fraud_assessment", "shadow_score")
    op.drop_column("fraud_assessment", "shadow_version")
