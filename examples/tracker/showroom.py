"""The project as `make serve` shows it: with one app more, so that more is going on."""

from . import settings
from .settings import *  # noqa: F403

INSTALLED_APPS = [*settings.INSTALLED_APPS, "reviews"]
