package pebblekv

// Cached is how many bytes of blocks are in memory.
func (d *DB) Cached() int64 { return d.kv.Metrics().BlockCache.Size }
