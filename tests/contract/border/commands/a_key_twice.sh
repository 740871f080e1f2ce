echo '{"value": 1, "value": 5}'
