"""The example's settings, and the bench's app beside the example's."""

from examples.tracker.settings import *  # noqa: F403
from examples.tracker.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "bench.project.trials"]
