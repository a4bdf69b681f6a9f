"""Files of a sandbox over RPC: everything but their contents."""
