"""Secrets of clients: write-only for them, sealed at rest, told only to what puts them into requests."""
