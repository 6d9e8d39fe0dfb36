"""Guest consoles: the terminal core behind a small protocol, keys and mouse for the guest, one session a domain."""
