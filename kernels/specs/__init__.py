"""One file of Specs per file of kernels; tolerances; fixes of Triton's interpreter."""
