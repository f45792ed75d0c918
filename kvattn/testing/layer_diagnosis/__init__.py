"""What an attention layer that takes hidden states does, and what it does otherwise than was planned.

A layer is run on drawn hidden states and compared with its plan.  Where it differs, single changes of the plan are
computed, discrete ones and those with one number to fit, until one gives what the layer gave; where none does, the
rotation behind the scores is read out, and what is left is described.
"""
