"""The tabs: each `build()`s its components and `bind()`s its handlers."""
