"""What the operator wrote: the model, its loading, and its errors with path and line."""
