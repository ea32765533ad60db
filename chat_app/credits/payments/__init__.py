"""Payments: orders for credits, whoever takes the money."""
