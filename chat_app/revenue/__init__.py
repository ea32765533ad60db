"""Revenue: what was earned, what is owed, what recurs. Reads money, moves none."""
