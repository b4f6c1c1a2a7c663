#!lua flags=allow-oom
-- Drop the entries of a log before an offset, exactly, and remember the tag at the cut.
--
-- KEYS     stream, meta
-- ARGV     keep_from, the offset of the first entry to keep; the head is always kept
-- Returns  false where there is no such log, else {epoch, offset at the cut, tag at the cut}

local call, format = redis.call, string.format
local meta = call('HMGET', KEYS[2], 'epoch', 'head', 'first', 'trim_tag')
if not meta[1] then
  return false
end
local head, first = tonumber(meta[2]), tonumber(meta[3])
local keep_from = math.min(tonumber(ARGV[1]), head)
if keep_from <= first then
  local tag = meta[4] or string.sub(redis.sha1hex('fleetline1' .. meta[1]), 1, 16)
  return {meta[1], format('%.0f', first - 1), tag}
end
local cut = format('%.0f-0', keep_from - 1)
local entry = call('XRANGE', KEYS[1], cut, cut)[1]
if not entry then
  return redis.error_reply('FLHOLE ' .. KEYS[1] .. ' has no entry ' .. cut)
end
call('XTRIM', KEYS[1], 'MINID', '=', format('%.0f-0', keep_from))
call('HSET', KEYS[2], 'first', format('%.0f', keep_from), 'trim_tag', entry[2][4])
return {meta[1], format('%.0f', keep_from - 1), entry[2][4]}
