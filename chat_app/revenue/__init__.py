"""Revenue: what was earned, what is owed, what recurs; the money ledger. Moves no credits."""
