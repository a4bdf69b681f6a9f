"""``cube bench``: how fast sandboxes start and answer, beside other ways of starting the same image, in one run."""
