"""What goes over the wire, with E2B's field names."""
