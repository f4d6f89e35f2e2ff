"""Twisted's SMTP protocols, hardened: server and client factories, TLS, reception."""
