"""cube: a self-hosted, E2B-compatible sandbox service for AI agents."""

__version__ = "0.1.0"
