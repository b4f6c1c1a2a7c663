#!lua flags=allow-oom
-- Drop a log with all its keys, and what stands of it elsewhere in its partition, where guards hold.
--
-- KEYS     stream, meta, producers, acks, log index, then one of each guard, then one of each removal
-- ARGV     the log's name in the index, how many guards there are, then of each guard: field, the value that it must
--          have; then of each removal: HDEL or ZREM, field or member
-- Returns  1 where the log was there and the guards held, else 0

local call = redis.call
local key, at = 6, 3

for _ = 1, tonumber(ARGV[2]) do
  if call('HGET', KEYS[key], ARGV[at]) ~= ARGV[at + 1] then
    return 0
  end
  key, at = key + 1, at + 2
end

local existed = call('EXISTS', KEYS[2])
call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
call('ZREM', KEYS[5], ARGV[1])
for place = key, #KEYS do
  call(ARGV[at], KEYS[place], ARGV[at + 1])
  at = at + 2
end
return existed
