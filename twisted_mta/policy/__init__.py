"""What may come in: access, limits, throttles. Stages of the reception pipeline."""
