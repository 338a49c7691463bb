"""IO that only reads a live target: /proc, page states, memory."""
