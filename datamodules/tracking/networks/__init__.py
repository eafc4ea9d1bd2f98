"""Network files of the tracker, and the script that makes them."""
