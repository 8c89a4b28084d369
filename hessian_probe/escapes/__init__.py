"""A verdict becomes a move that is proved."""
