"""SMTP as bytes: lines, commands, replies, DATA framing, SASL exchanges. Sans-I/O: bytes in, events out."""
