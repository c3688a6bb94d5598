"""`python -m async_migrations.client`."""

import sys

from . import main

sys.exit(main())
