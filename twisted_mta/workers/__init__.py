"""The service over several processes: a parent that holds the ports, and workers that serve."""
