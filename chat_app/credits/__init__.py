"""Credits: the exact ledger, prices, packages and payments. It knows no model and no page."""
