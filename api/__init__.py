"""The control-plane service: one deployment of `async_migrations`, and whatever differs between installations."""
