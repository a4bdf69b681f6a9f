"""The resolver that sandboxes ask, at their gateway's address: forwards questions, and lets answers open addresses."""
