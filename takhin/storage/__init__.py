"""Where records are kept. The only package that loads apsw, and so the only one with files open."""
