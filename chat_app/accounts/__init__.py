"""Accounts: who people are, how they prove it, and how much they may ask for at once."""
