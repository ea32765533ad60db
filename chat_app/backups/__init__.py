"""Backups: archives of an installation, made while it serves, checked before they are trusted."""
