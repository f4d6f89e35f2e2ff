"""The real service, started as an operator starts it, against programs that nobody here wrote."""
