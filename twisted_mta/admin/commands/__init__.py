"""The commands of ``mta``, a module for each group; imported when they are called."""
