"""Calibration data synthesized from nothing but the network.

``make_generator`` is the door, ``task`` what every algorithm is given. The default algorithms, ``generators/pixels``
and ``generators/prior``, start from the procedural images of ``images/``; the others are published baselines.
"""
