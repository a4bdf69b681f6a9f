"""Volumes: which there are, who may see their content, and what mounts them."""
