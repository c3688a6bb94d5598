"""Trivial migrations, many of them."""
