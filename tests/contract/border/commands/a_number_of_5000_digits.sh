printf '%05000d' 0 | tr 0 9
