"""The addresses of the API, below whatever prefix the project includes them. No trailing slashes."""

from django.urls import path

from . import backfills, bulk, gates, janitor, preflight, views
from .door import no_door

urlpatterns = [
    path("async-migrations", views.ListDoor.as_view()),
    path("async-migrations/summary", views.SummaryDoor.as_view()),
    path("async-migrations/gate", gates.GateDoor.as_view()),
    path("async-migrations/hold", gates.HoldDoor.as_view()),
    path("async-migrations/run", bulk.BulkRunDoor.as_view()),
    path("async-migrations/cancel", bulk.BulkCancelDoor.as_view()),
    path("async-migrations/janitor", janitor.JanitorDoor.as_view()),
    path("async-migrations/janitor/drop", janitor.JanitorDropDoor.as_view()),
    path("async-migrations/<int:id>", views.DetailDoor.as_view()),
    path("async-migrations/<int:id>/preflight", preflight.PreflightDoor.as_view()),
    path("async-migrations/<int:id>/run", views.RunDoor.as_view()),
    path("async-migrations/<int:id>/pause", views.PauseDoor.as_view()),
    path("async-migrations/<int:id>/resume", views.ResumeDoor.as_view()),
    path("async-migrations/<int:id>/cancel", views.CancelDoor.as_view()),
    path("async-migrations/<int:id>/rollback", views.RollbackDoor.as_view()),
    path("async-migrations/<int:id>/tuning", backfills.TuningDoor.as_view()),
    path("async-migrations/<int:id>/quarantine", backfills.QuarantineDoor.as_view()),
    path("async-migrations/<int:id>/events", views.EventsDoor.as_view()),
    path("async-migrations/<path:rest>", no_door),
]
