"""Notify: what people are told, by mail, in the app and by webhook, at least once and in order."""
