"""Files of a data set from a mirror to this machine: which ones, checked, and continued after a break."""
