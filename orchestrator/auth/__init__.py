"""Who may do what: the keys that tokens are signed with, the tokens, and what their scopes permit."""
