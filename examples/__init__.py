"""A host project as a user would have it (`manage.py`, `tracker/`, `tasks/`), and the demo that drives it (`demo/`)."""
