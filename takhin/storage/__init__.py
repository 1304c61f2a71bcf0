"""Where records are kept: the contract of an engine, the rules that all engines share, and the engines."""
