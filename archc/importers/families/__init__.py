"""One file per `model_type` of transformers, named like it: ``DEFAULTS`` of its config class, and ``spec(reader) -> Spec``."""
