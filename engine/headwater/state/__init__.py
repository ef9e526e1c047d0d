"""State: a shard's entities and rows, in memory and in RocksDB, and its checkpoints."""
