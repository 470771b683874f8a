"""Facts of kernels without a GPU: bytes from an interpreter, code from the compilers that come with Triton."""
