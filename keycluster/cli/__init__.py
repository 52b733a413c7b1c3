"""The command line. `main` picks the command; each module here holds some and imports what they need only when run."""
