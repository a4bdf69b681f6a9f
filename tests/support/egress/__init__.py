"""A world of its own for tests of the outbound proxy: a node, sandboxes and an internet, each a network namespace."""
