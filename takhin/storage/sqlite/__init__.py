"""The engine over SQLite files. The only package whose code runs beside open partition files."""
