"""Django signals for projects that embed the app."""

from __future__ import annotations

from django.dispatch import Signal

#: A migration has moved, and that is committed. Sent by AsyncMigrationStatus in the process that moved it, with
#: `migration` (the row as it was written then), `kind` (name of the transition), `from_status` (empty for one that is
#: new, and where the status stayed), `to_status` and `by`. A receiver that raises is logged and harms nothing.
migration_moved = Signal()
