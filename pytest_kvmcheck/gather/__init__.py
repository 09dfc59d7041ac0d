"""How evidence is fetched: the script, the reply, the transport and the collectors of recorded evidence."""
