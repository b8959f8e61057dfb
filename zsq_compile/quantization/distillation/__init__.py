"""Training the whole quantized network towards the float one."""
