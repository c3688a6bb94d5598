"""The settings as mypy's Django plugin loads them, which needs no server and no environment."""

import os

os.environ.setdefault("DATABASE_URL", "sqlite://:memory:")
os.environ.setdefault("BROKER_URL", "redis://127.0.0.1:1/0")
os.environ.setdefault("SECRET_KEY", "for-types-only")

from api.settings import *  # noqa: F403
