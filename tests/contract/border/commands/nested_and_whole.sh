for n in $(seq 200); do printf '{"a":'; done; printf 1; for n in $(seq 200); do printf '}'; done
