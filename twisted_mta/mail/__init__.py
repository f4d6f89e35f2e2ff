"""What mail is: addresses, envelopes, header fields, status codes, message ids, events. Pure values and functions."""
