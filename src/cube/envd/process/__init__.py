"""Processes of a sandbox: started, watched over, and spoken to by any number of clients."""
