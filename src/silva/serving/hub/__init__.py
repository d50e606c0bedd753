"""The front's memory of every request and peer, from arrival to the last token."""
