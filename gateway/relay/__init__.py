"""The data path: one pump moves the bytes of all established connections."""
