"""The service's own settings, with what tests do differently."""

from api.settings import *  # noqa: F403
from api.settings import DATABASES, INSTALLED_APPS, LOGGING

# A test's connection must not outlive the test's database.
for _database in DATABASES.values():
    _database["CONN_MAX_AGE"] = 0

# The slow hash is for real passwords.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

# What is logged goes to pytest, which shows it where a test fails.
LOGGING["root"]["handlers"] = []

# A host application whose migration files the tests write, see tests/db/conftest.py.
INSTALLED_APPS = [*INSTALLED_APPS, "tests.bookshop"]
MIGRATION_MODULES = {"bookshop": None}

# Tests count queries, and a share of the limit is one more now and then; tests/http/test_rate_limit.py has its own.
ASYNC_MIGRATIONS_RATE_LIMIT = None
