"""The life of sandboxes: decisions, deadlines, the order of writes. The node carries out, the store remembers."""
