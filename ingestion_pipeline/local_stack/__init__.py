"""What runs the whole pipeline on one machine: an embedded PostgreSQL and the supervisor of its services."""
