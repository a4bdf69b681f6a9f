"""``cube bench egress``: the outbound proxy between a sandbox and an internet of the benchmark's own, each in a network
namespace, and mitmproxy in its place."""
