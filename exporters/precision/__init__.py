"""What makes weights smaller, a way a file: int8 in blocks, int8 in columns, float16."""
