"""The algorithms that synthesize calibration data, each a function of a task.

``pixels`` (with BatchNormalization statistics) and ``prior`` (without) are the defaults. The others are for comparison:
``noise``; ``zeroq``, ``dsg`` and ``intraq``, which share ``noise_descent`` and ``baseline_losses``; ``genie``,
``zs-cgan``, ``gdfq`` and ``adadfq``, which learn generator networks.
"""
