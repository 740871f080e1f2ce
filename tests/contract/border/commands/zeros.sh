head -c 5000 /dev/zero
