"""The page of a server: forest, playground and pools in a browser, from files of this package alone."""
