"""One TOML file to typed settings and back; every error names file, key, value and mend."""
