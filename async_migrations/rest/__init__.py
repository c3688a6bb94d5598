"""The HTTP interface: `path("api/", include("async_migrations.rest.urls"))` in any Django project.

Its views bring their own authentication, permissions, parsers, renderers, pagination and errors, so that the contract
is the same whatever the project's REST_FRAMEWORK setting says.
"""
