"""The app whose table grew too large for migrations inside a deploy."""
