"""What a sandbox gets when its request is not carried out: JSON with a reason, in the shape of :func:`refusal`."""

from __future__ import annotations

from typing import Any

from cube.proxy.vocabulary import Json

#: No policy is known for the address that asks.
NO_POLICY = "no_policy_for_sandbox"
#: No rule fits the request.
NO_RULE = "no_rule_match"
#: A rule says no.
DENIED = "denied_by_rule"
#: Rules and server could read the path in different ways.
AMBIGUOUS = "path_ambiguous"
#: The server cannot be reached, or is not who it should be.
UPSTREAM = "upstream_unreachable_or_unverified"
#: What a rule injects is not there.
MISSING = "secret_missing_in_policy"


def refusal(code: int, reason: str, message: str) -> Json:
    """The body of a refusal."""
    return {"code": code, "reason": reason, "message": message}


def local_replies() -> Json:
    """``LocalReplyConfig`` of the egress listener."""
    unknown = "This sandbox has no egress rules in force; if it was just made, try again in a second"
    unreachable = "The server cannot be reached, or its certificate is not one for its name: %RESPONSE_CODE_DETAILS%"
    return {
        "mappers": [
            _reply(_flags("NR"), 403, NO_POLICY, unknown),
            _reply(_flags("UF", "URX", "DF", "UPE", "UC", "UH", "NC", "UO", "UR"), 502, UPSTREAM, unreachable),
            _reply(_code(401), 403, MISSING, "A credential that this rule injects is not in force yet; try again"),
        ],
    }


def _reply(which: Json, code: int, reason: str, message: str) -> Json:
    return {
        "filter": which,
        "status_code": code,
        "body_format_override": {"json_format": refusal(code, reason, message)},
    }


def _flags(*flags: str) -> Json:
    return {"response_flag_filter": {"flags": list(flags)}}


def _code(code: int) -> Json:
    comparison: dict[str, Any] = {"op": "EQ", "value": {"default_value": code, "runtime_key": "cube.unused"}}
    return {"status_code_filter": {"comparison": comparison}}
