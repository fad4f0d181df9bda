# numerics
