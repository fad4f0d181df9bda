# random/ data/ checkpoint/
