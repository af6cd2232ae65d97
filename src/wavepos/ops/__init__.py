"""Attention over the score formula: one call, several backends that know nothing of each other.

The call is `wavepos.ops.attention.attention`, exported as `wavepos.attention`; this package exports no function, for a
function of a module's name would hide the module.
"""
