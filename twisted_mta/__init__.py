"""twisted-mta: a durable mail transfer agent for Internet service providers."""
