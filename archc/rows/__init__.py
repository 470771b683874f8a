"""Row programs: what works on each token alone, written once, differentiated by rule, printed as kernels."""
