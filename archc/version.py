"""The version of archc."""

VERSION = "0.1.0"
