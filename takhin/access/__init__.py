"""Who may do what: rules, tokens and principals as pure values and functions. Knows no file and no wire."""
