"""The version of E2B's envd whose features are all here.

Clients switch features on by it (`envdVersion` of create and connect). A test ties every gate that the clients know
to the test of the feature behind it, so the number cannot run ahead of the code.
"""

from __future__ import annotations

ENVD_VERSION = "0.6.13"
