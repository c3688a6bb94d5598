"""Heavy PostgreSQL migrations that do not block a deploy."""

__version__ = "0.1.0"
