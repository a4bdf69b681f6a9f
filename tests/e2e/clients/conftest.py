from __future__ import annotations

#: The checks run inside the clients' own environments.
collect_ignore = ["suite"]
