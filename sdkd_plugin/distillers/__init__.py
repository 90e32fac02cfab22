"""One method = one file: its config keys, its pure loss function, then a thin Distiller class that
registers itself.
"""
