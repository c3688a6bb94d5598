"""The service's settings with other doors: the yardstick, what Django REST framework does by itself over the same rows.

Same processes, middleware, database and logs.
"""

from api.settings import *  # noqa: F403

ROOT_URLCONF = "bench.project.plain_urls"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["knox.auth.TokenAuthentication"],
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.PageNumberPagination",
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "PAGE_SIZE": 50,  # type: ignore[dict-item]
}
REST_KNOX = {"AUTH_HEADER_PREFIX": "Bearer"}
