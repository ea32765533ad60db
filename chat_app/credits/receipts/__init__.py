"""Receipts: what a settled answer cost, signed, so that it can be checked without this program."""
