"""Models: what customers will do, always beside a naive baseline. Knows no page."""
