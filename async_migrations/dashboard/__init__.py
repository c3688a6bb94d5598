"""The operators' page: what every migration is doing, live, and the buttons.

A project includes `async_migrations.dashboard.urls`. It stands on the same functions and permissions as the HTTP API,
and needs `rest_framework` and `django_filters` as that does, and Django's auth, sessions, messages and staticfiles.
"""
