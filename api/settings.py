"""Settings of the control-plane service; the only reader of the environment.

| variable | meaning |
|---|---|
| DATABASE_URL | the control database, required; postgresql:// |
| DATABASE_URL_<ALIAS> | a further target, known by the alias in lower case |
| BROKER_URL | redis://, rediss://, unix:// or amqp://; unset: migrations are carried out inline |
| SECRET_KEY | required unless DEBUG |
| ALLOWED_HOSTS, CSRF_TRUSTED_ORIGINS | separated by commas |
| ALLOW_SCHEDULED_MIGRATIONS | `migrate` only records; default no |
| DEBUG | default no |
| SECURE_COOKIES, SECURE_SSL_REDIRECT | default no; for a service behind TLS |
| SECURE_HSTS_SECONDS | for a service behind TLS; default 0, say 31536000 |
| SECURE_PROXY_SSL_HEADER | what the proxy says when the client came by TLS, X-Forwarded-Proto: https |
| LOG_LEVEL, LOG_FORMAT | default INFO and json |
| METRICS_BIND | HOST:PORT where a worker answers /metrics; unset: nowhere |
| OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_EXPORTER | where spans go; unset: nowhere |
| ASYNC_MIGRATIONS_* | see `async_migrations.conf` |
"""

from __future__ import annotations

import os
from pathlib import Path

from api import openapi, variables
from api.logs import logging_config

BASE_DIR = Path(__file__).resolve().parent.parent
_env = os.environ

# --- what an installation says ---

DEBUG = variables.switch(_env, "DEBUG", default=False)
SECRET_KEY = variables.secret_key(_env, debug=DEBUG)
ALLOWED_HOSTS = variables.words(_env, "ALLOWED_HOSTS", default=("localhost", "127.0.0.1", "[::1]"))
CSRF_TRUSTED_ORIGINS = variables.origins(_env, "CSRF_TRUSTED_ORIGINS")
DATABASES = variables.databases(_env)
ALLOW_SCHEDULED_MIGRATIONS = variables.switch(_env, "ALLOW_SCHEDULED_MIGRATIONS", default=False)
LOGGING = logging_config(
    level=variables.choice(_env, "LOG_LEVEL", variables.LOG_LEVELS, default="INFO"),
    form=variables.choice(_env, "LOG_FORMAT", variables.LOG_FORMATS, default="json"),
)
METRICS_BIND = variables.address(_env, "METRICS_BIND")
# As OpenTelemetry has it, but for one thing: without a word nothing is sent.
_collector = _env.get("OTEL_EXPORTER_OTLP_ENDPOINT")
TRACES_EXPORTER = variables.choice(
    _env, "OTEL_TRACES_EXPORTER", variables.TRACES_EXPORTERS, default="otlp" if _collector else "none"
)
globals().update(variables.app_settings(_env))

# --- applications ---

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "knox",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "async_migrations",
]

# Without a broker there is no such setting at all: that tells the app to carry migrations out inline.
if (_broker := variables.broker(_env)) is not None:
    DRAMATIQ_BROKER = _broker
    if METRICS_BIND is not None:
        DRAMATIQ_BROKER["MIDDLEWARE"].append("api.exposition.Exposition")
    if TRACES_EXPORTER != "none":
        DRAMATIQ_BROKER["MIDDLEWARE"].append("api.tracing.Tracing")
    # Ahead of the app: it sets the broker that the actors bind to.
    INSTALLED_APPS.insert(INSTALLED_APPS.index("async_migrations"), "django_dramatiq")

MIDDLEWARE = [
    "async_migrations.rest.request_id.RequestIDMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "api.headers.BrowserHeadersMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "api.urls"
WSGI_APPLICATION = "api.wsgi.application"
APPEND_SLASH = False  # an API answers 404, not a redirect that turns a POST into a GET

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LANGUAGE_CODE = "en-us"
USE_TZ = True
TIME_ZONE = "UTC"

# --- static files: straight out of the packages, so that a forgotten collectstatic cannot break admin and docs ---

STATIC_URL = "/static/"
STATIC_ROOT = None
WHITENOISE_USE_FINDERS = True

# --- security ---

DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024  # bytes; the largest request of this API is far smaller
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_HTTPONLY = True  # not the CSRF cookie: a page's script sends its value as a header
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = variables.switch(_env, "SECURE_COOKIES", default=False)
SECURE_SSL_REDIRECT = variables.switch(_env, "SECURE_SSL_REDIRECT", default=False)
SECURE_REDIRECT_EXEMPT = ["^healthz$", "^readyz$"]  # probes come from inside, without TLS
SECURE_HSTS_SECONDS = variables.count(_env, "SECURE_HSTS_SECONDS", default=0)
SECURE_PROXY_SSL_HEADER = variables.header(_env, "SECURE_PROXY_SSL_HEADER")
# What holds for the other hosts of a domain, and in every browser's list of domains, is for its owner to say.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
DEFAULT_EXCEPTION_REPORTER_FILTER = "api.errors.Discreet"

# --- REST ---

# The API brings all of this itself; here it is for the document's own address.
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "async_migrations.rest.authentication.ApiTokenAuthentication",
        "async_migrations.rest.authentication.BrowserAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PARSER_CLASSES": ["async_migrations.rest.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["async_migrations.rest.parsers.PlainJSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "async_migrations.rest.problems.exception_handler",
    "URL_FORMAT_OVERRIDE": None,  # a parameter that beats Accept
}

CSRF_FAILURE_VIEW = "api.errors.csrf_failure"

SPECTACULAR_SETTINGS = {**openapi.SETTINGS, "VERSION": "0.1.0"}
