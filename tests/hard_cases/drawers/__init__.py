"""Drawers as `archc --drawers` finds them: ``<slot>/<kind>.py``, written against the same interfaces as the library's own."""
