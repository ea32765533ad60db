"""Inference: everything that turns messages into text. It knows no user, price or web page."""
