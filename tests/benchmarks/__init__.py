"""`make bench`: Kakitome beside websockify, websocat, nginx and a picows relay, each pinned to one core in turn."""
