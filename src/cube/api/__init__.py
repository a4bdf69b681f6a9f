"""CubeAPI: E2B-compatible REST, and what CubeSandbox adds to it. No decisions: those are in ``cube.master``."""
