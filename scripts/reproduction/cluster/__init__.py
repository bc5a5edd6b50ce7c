"""The machines: their devices, what jobs ask of a cluster, how a process uses them."""
