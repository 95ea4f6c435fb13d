"""Everything that builds or steps an environment."""
