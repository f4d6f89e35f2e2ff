"""A whole server on a memory clock, fake DNS, an in-memory peer: for tests of this project and of its plugins."""
