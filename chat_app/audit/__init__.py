"""Audit: an append-only log of events and keyed seals over the books."""
