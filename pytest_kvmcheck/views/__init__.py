"""Views: the facts of a host, its domains and its cluster, parsed on first use and then kept."""
