"""Getting it out: scheduler, router, destinations, agents, DNS."""
