from django.apps import AppConfig
from django.db.models.signals import post_migrate


class AsyncMigrationsConfig(AppConfig):
    name = "async_migrations"
    verbose_name = "Async migrations"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks, handing_over  # noqa: F401

        post_migrate.connect(handing_over.after_migrate, sender=self, dispatch_uid="async_migrations")
