"""Addresses of the host project. Migrations are driven in the service (`api/`), so nothing of that is here."""

from django.contrib import admin
from django.urls import path

urlpatterns = [path("admin/", admin.site.urls)]
