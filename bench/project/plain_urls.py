"""A plain ModelViewSet over the rows; each answer has the columns that ours has."""

from __future__ import annotations

from typing import Any

from django.urls import include, path
from rest_framework.permissions import DjangoModelPermissions
from rest_framework.routers import SimpleRouter
from rest_framework.serializers import ModelSerializer
from rest_framework.viewsets import ModelViewSet

from api import health
from async_migrations.models import AsyncMigrationStatus

_COLUMNS = (
    "id", "name", "database", "kind", "direction", "status", "stop_requested", "meta", "phase", "progress_done",
    "progress_total", "progress_unit", "progress_percent", "progress_rate", "eta_seconds", "waiting_on", "throttled",
    "attempt", "max_attempts", "worker", "requested_by", "run_at", "created_at", "updated_at", "requested_at",
    "started_at", "finished_at", "heartbeat_at",
)  # fmt: skip
_OF_THE_DETAIL = (
    "queued_behind", "priority", "tuning", "quarantined", "sql_forwards", "sql_backwards", "sql_digest", "options",
)  # fmt: skip


class MayView(DjangoModelPermissions):
    """Asks who reads for the permission to, as our doors do; by itself it asks them for none."""

    perms_map = {**DjangoModelPermissions.perms_map, "GET": ["%(app_label)s.view_%(model_name)s"]}


class PlainSerializer(ModelSerializer[AsyncMigrationStatus]):
    class Meta:
        model = AsyncMigrationStatus
        fields = _COLUMNS


class PlainDetailSerializer(ModelSerializer[AsyncMigrationStatus]):
    class Meta:
        model = AsyncMigrationStatus
        fields = (*_COLUMNS, *_OF_THE_DETAIL)


class PlainMigrations(ModelViewSet[AsyncMigrationStatus]):
    permission_classes = (MayView,)
    queryset = AsyncMigrationStatus.objects.all()

    def get_serializer_class(self) -> Any:
        return PlainDetailSerializer if self.detail else PlainSerializer


_router = SimpleRouter(trailing_slash=False)
_router.register("plain", PlainMigrations)

urlpatterns = [path("readyz", health.ready), path("", include(_router.urls))]
