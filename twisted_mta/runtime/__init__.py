"""What the service asks of the operating system: sockets, privileges, signals, systemd, certificates of its own."""
