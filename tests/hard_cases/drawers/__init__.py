"""Drawers as `archc --drawers` finds them, ``<slot>/<kind>.py``, on the same interfaces as the library's own."""
