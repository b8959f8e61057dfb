"""Which layers and values are left in float because few bits harm what the network is for."""
