"""What must outlive a restart of the service, in SQLite (embedded) or PostgreSQL (cluster)."""
