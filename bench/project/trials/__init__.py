"""Trivial migrations, many of them, and the same statements as jobs of the original's kind."""
