echo 1e999
