"""The node of the egress benchmark: the policy service as a process that can be killed and started again."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from cube.bench.egress.ground import NAMES, PROXY_PORT, Ground
from cube.bench.load import RoundFailed
from cube.settings import Settings

_START_SECONDS = 30.0
_POLL_SECONDS = 0.005
Policy = dict[str, Any]


class Node:
    """The policy service. :meth:`start` and :meth:`kill` may be called again and again."""

    def __init__(self, ground: Ground, directory: Path) -> None:
        self._ground = ground
        self._directory = directory
        self._policies: dict[str, Policy] = {}
        self._process: subprocess.Popen[bytes] | None = None
        state, run = directory / "state", directory / "run"
        self.settings = Settings(instance="bench", state_dir=state, run_dir=run)

    async def start(self, policies: dict[str, Policy] | None = None) -> None:
        """Start it with these policies, or those of the last time, and wait until all are in force."""
        self._policies = policies or self._policies
        file = self._directory / "policies.json"
        file.write_text(json.dumps(self._policies), encoding="utf-8")
        self._process = self._spawn(file)
        async with asyncio.timeout(_START_SECONDS):
            while not await self._ready():
                if self._process.poll() is not None:
                    text = (self._directory / "service.log").read_text(errors="replace")
                    raise RoundFailed(f"the policy service ended: {text[-500:]}")
                await asyncio.sleep(_POLL_SECONDS)

    def _spawn(self, policies: Path) -> subprocess.Popen[bytes]:
        module = (sys.executable, "-m", "cube.bench.egress.policy_service", str(policies))
        command, environment = self._ground.inside("node", *module), self._environment()
        with (self._directory / "service.log").open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def kill(self) -> None:
        """Kill it as a crash would; the proxy goes on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it and the proxy."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    async def put(self, address: str, policy: Policy) -> None:
        """Put a policy in force. Raises ``RoundFailed`` when it is not."""
        async with self._client() as client:
            answer = await client.put(f"/policies/{address}", json=policy)
        if not answer.is_success or not answer.json()["in_force"]:
            raise RoundFailed(f"rules are not in force: {answer.text[:200]}")

    async def put_many(self, policies: dict[str, Policy]) -> None:
        """Put many in force, some at the same time."""
        left = iter(policies.items())

        async def worker() -> None:
            async with self._client() as client:
                for address, policy in left:
                    await client.put(f"/policies/{address}", json=policy)

        async with asyncio.TaskGroup() as group:
            for _ in range(16):
                group.create_task(worker())

    async def _ready(self) -> bool:
        try:
            async with self._client() as client:
                answer = await client.get("/health")
        except httpx.HTTPError:
            return False
        return bool(answer.json()["status"] == "ready")

    def _client(self) -> httpx.AsyncClient:
        # Without TLS there is no authority to trust. Reading those of the web would take longer than what is asked.
        transport = httpx.AsyncHTTPTransport(uds=str(self.settings.egress_admin_socket), verify=False)
        return httpx.AsyncClient(transport=transport, base_url="http://egress/admin/v1", timeout=30)

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "CUBE_INSTANCE": "bench",
            "CUBE_STATE_DIR": str(self.settings.state_dir),
            "CUBE_RUN_DIR": str(self.settings.run_dir),
            "CUBE_EGRESS_PORT": str(PROXY_PORT),
            "CUBE_EGRESS_TRUST": str(self._directory / "world-ca" / "cube-root-ca.crt"),
            "CUBE_DNS_SERVERS": NAMES,
        }


@asynccontextmanager
async def node(ground: Ground, directory: Path, policies: dict[str, Policy]) -> AsyncIterator[Node]:
    """A node with these policies by address, during the block."""
    made = Node(ground, directory)
    try:
        await made.start(policies)
        yield made
    finally:
        made.stop()
