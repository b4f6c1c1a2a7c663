#!lua flags=allow-oom
-- Drop a log with all its keys.
--
-- KEYS     stream, meta, producers, acks, log index
-- ARGV     the log's name in the index
-- Returns  1 where the log was there, else 0

local existed = redis.call('EXISTS', KEYS[2])
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
redis.call('ZREM', KEYS[5], ARGV[1])
return existed
