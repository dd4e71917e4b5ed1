"""Data files that ship with the package; their licences stand in NOTICE."""
