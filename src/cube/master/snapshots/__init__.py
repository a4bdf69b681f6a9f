"""Snapshots: taken of sandboxes, listed, named, used and deleted."""
