"""The durable store: messages, deliveries, due times, quotas, usage; group commit."""
