"""One TOML file to typed settings and back; every error names file, key, value and mend.

>>> settings, warnings = load_checked("/etc/twisted-mta/mta.toml")
"""

from .changes import for_reload
from .load import check, load, load_checked, parse
from .problems import ConfigError, Problem
from .settings import Settings

__all__ = ["ConfigError", "Problem", "Settings", "check", "for_reload", "load", "load_checked", "parse"]
