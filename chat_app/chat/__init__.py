"""Conversations and running replies. This room knows no credits and no model."""
