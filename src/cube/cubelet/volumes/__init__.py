"""Volumes of clients on this node: their storage, and the way to their files from outside of sandboxes.

Sandboxes write into volumes as they like, while a request looks: the content of a volume is hostile. Whatever leads
into one is resolved by the kernel (``openat2``), which keeps it inside, or goes name by name from an open directory.
"""
