"""How an operator sees and steers it: command line, HTTP API, metrics, event log."""
