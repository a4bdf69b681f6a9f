"""Envoy as the front door: its process, its configuration over xDS, and how requests find their sandbox."""
