"""Who our customers are: customers, domains, users, aliases; cred realm and checkers."""
