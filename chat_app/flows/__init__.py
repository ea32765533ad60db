"""Stories that cross rooms. Each flow opens its transactions; nothing below commits."""
