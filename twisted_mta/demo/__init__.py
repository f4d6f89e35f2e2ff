"""``make demo``: the real service on loopback, and one message of each fate before your eyes.

It starts from nothing: settings, a certificate, a customer with two mailboxes, and ``twistd mta``; beside it a second
``twistd mta`` that plays another host on the Internet, and a DNS server that leads to it.  Everything lies below
``./var/demo`` and is made anew by the next run; nothing talks to anything but 127.0.0.1.
"""
