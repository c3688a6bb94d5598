"""Every address of the service. Under /api there is no trailing slash, and no redirect to one."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from api import errors, health
from api.document import DocumentView, PageView
from async_migrations.rest.metrics import MetricsDoor

urlpatterns = [
    path("", include("async_migrations.dashboard.urls")),
    path("healthz", health.alive, name="alive"),
    path("readyz", health.ready, name="ready"),
    path("metrics", MetricsDoor.as_view(), name="metrics"),
    path("admin", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
    path("api/schema", DocumentView.as_view(), name="schema"),
    path("api/docs", PageView.as_view(url_name="schema"), name="docs"),
    path("api/", include("async_migrations.rest.urls")),
    path("api", errors.unknown_api),
    path("api/", errors.unknown_api),
    path("api/<path:rest>", errors.unknown_api),
]

handler400 = "api.errors.bad_request"
handler403 = "api.errors.permission_denied"
handler404 = "api.errors.not_found"
handler500 = "api.errors.server_error"
