printf '{\"a\": \"\xff\xfe\"}'
