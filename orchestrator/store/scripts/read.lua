#!lua flags=no-writes
-- Read a page of a log, or only its head.
--
-- KEYS     stream, meta
-- ARGV     after (an offset), limit (entries), bytes_max (of packed values)
-- Returns  false where there is no such log, else
--          msgpack {epoch, head, before, tag before, tag after, {ts_ms, packed, ts_ms, packed...}}
--
-- A page begins at the first entry that is kept and holds at least one entry where there is one. Entries are
-- taken from the stream in steps, so that a page of large entries is never read whole to be thrown away.

local STEP_FIRST, STEP_MAX = 32, 256

local call, format = redis.call, string.format
local after, limit, bytes_max = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local meta = call('HMGET', KEYS[2], 'epoch', 'head', 'tag', 'first', 'trim_tag')
if not meta[1] then
  return false
end
local epoch, head, first = meta[1], tonumber(meta[2]), tonumber(meta[4])
if after >= head then
  return cmsgpack.pack({epoch, head, head, meta[3], meta[3], {}})
end

local function entries_from(offset, count)
  local found = call('XRANGE', KEYS[1], format('%.0f-0', offset), '+', 'COUNT', format('%.0f', count))
  local last = format('%.0f-0', offset + #found - 1)
  if #found == 0 or found[1][1] ~= format('%.0f-0', offset) or found[#found][1] ~= last then
    return nil
  end
  return found
end

local function origin_tag()
  return meta[5] or string.sub(redis.sha1hex('fleetline1' .. epoch), 1, 16)
end

local before, tag_before = after, nil
if after < first then
  before, tag_before = first - 1, origin_tag()
else
  local found = entries_from(after, 1)
  if not found then
    return redis.error_reply('FLHOLE ' .. KEYS[1] .. ' has no entry ' .. format('%.0f', after))
  end
  tag_before = found[1][2][4]
end

local page, bytes, largest, count, tag_after = {}, 0, 0, 0, tag_before
local step, offset = STEP_FIRST, before + 1
while offset <= head and count < limit and (count == 0 or bytes < bytes_max) do
  local found = entries_from(offset, math.min(step, limit - count, head - offset + 1))
  if not found then
    return redis.error_reply('FLHOLE ' .. KEYS[1] .. ' has no entry ' .. format('%.0f', offset))
  end
  for i = 1, #found do
    local fields = found[i][2]
    local size = #fields[2]
    if count > 0 and bytes + size > bytes_max then
      return cmsgpack.pack({epoch, head, before, tag_before, tag_after, page})
    end
    bytes, largest, count = bytes + size, math.max(largest, size), count + 1
    page[2 * count - 1], page[2 * count], tag_after = tonumber(fields[6]), fields[2], fields[4]
  end
  offset = offset + #found
  step = math.max(1, math.min(STEP_MAX, math.floor((bytes_max - bytes) / math.max(largest, 1)) + 1))
end
return cmsgpack.pack({epoch, head, before, tag_before, tag_after, page})
