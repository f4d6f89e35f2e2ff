"""What becomes of mail when things go wrong, for long and at random: the soak, and thousands of crashes.

A sender (``sending``), the far side (``far``) and a service under faults (``service``), each with a ledger of its own;
``ledger`` holds them against each other, message by message.  ``soak`` and ``crash`` are the programs.
"""
