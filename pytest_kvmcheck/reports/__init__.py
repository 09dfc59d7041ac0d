"""Reports: how results are shown. None of them judges anything again."""
