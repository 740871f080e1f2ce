sleep 600 & echo '{"a": 1}'
