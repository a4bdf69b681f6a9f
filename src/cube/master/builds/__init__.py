"""Templates built by clients: steps carried out in a sandbox, whose files become what others are cloned from."""
