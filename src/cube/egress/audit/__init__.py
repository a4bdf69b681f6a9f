"""The audit log of the outbound proxy: what Envoy notes is redacted, completed and appended to one file."""
