"""File contents over plain HTTP: ``GET`` and ``POST /files``, ``POST /files/compose``."""
