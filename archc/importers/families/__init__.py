"""One file per `model_type` of transformers: ``DEFAULTS`` of its config class, and ``spec(reader) -> Spec``."""
