# quant/ kernels/ nn/ training/
