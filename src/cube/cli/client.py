"""How commands ask the running service."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from cube.model.errors import CubeError, Unavailable
from cube.settings import Settings

_PATIENCE_S = 60


class ApiClient:
    """The API of this machine's service, for a ``with`` block. Raises ``CubeError`` with what the service says, and
    ``Unavailable`` when it does not answer."""

    def __init__(self, settings: Settings) -> None:
        import httpx  # late: commands that ask nobody need not wait for it

        headers = {"X-API-KEY": settings.api_key} if settings.api_key else {}
        self._failure = httpx.HTTPError
        self._client = httpx.Client(base_url=settings.public_url, headers=headers, timeout=_PATIENCE_S, trust_env=False)

    def __enter__(self) -> ApiClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, path: str) -> Any:
        """What ``GET`` answers."""
        return self._request("GET", path)

    def pages(self, path: str) -> list[Any]:
        """What ``GET`` answers, page by page; ``path`` has a query already."""
        found, token = [], ""
        while True:
            answer = self._answer("GET", path + (f"&nextToken={token}" if token else ""))
            found += answer.json()
            token = answer.headers.get("x-next-token", "")
            if not token:
                return found

    def post(self, path: str, body: object) -> Any:
        """What ``POST`` answers."""
        return self._request("POST", path, body)

    def delete(self, path: str) -> None:
        """``DELETE``."""
        self._request("DELETE", path)

    def _request(self, method: str, path: str, body: object = None) -> Any:
        answer = self._answer(method, path, body)
        return answer.json() if answer.content else None

    def _answer(self, method: str, path: str, body: object = None) -> Any:
        try:
            answer = self._client.request(method, path, json=body)
        except self._failure as error:
            raise Unavailable("the service does not answer; `cube up --detach` starts it") from error
        if answer.is_success:
            return answer
        raise _refusal(answer.status_code, answer.text, answer.headers.get("content-type", ""))


def _refusal(status: int, text: str, kind: str) -> CubeError:
    import orjson

    message = orjson.loads(text)["message"] if kind.startswith("application/json") else text[:200]
    return CubeError(f"the service refused it ({status}): {message}")
