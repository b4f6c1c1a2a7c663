#!lua flags=allow-oom
-- Drop the entries of a log before an offset, exactly, and remember the tag at the cut.
--
-- KEYS     stream, meta
-- ARGV     keep_from, the offset of the first entry to keep; the head is always kept
-- Returns  false where there is no such log, else {epoch, offset at the cut, tag at the cut}
--
-- Nobody is shown an entry before the cut. The block that the cut goes through is dropped with its last entry.

local meta = call('HMGET', KEYS[2], 'epoch', 'head', 'first', 'trim_tag')
if not meta[1] then
  return false
end
local head, first = tonumber(meta[2]), tonumber(meta[3])
local keep_from = math.min(tonumber(ARGV[1]), head)
if keep_from <= first then
  return {meta[1], format('%.0f', first - 1), meta[4] or first_tag(meta[1])}
end
local block = block_at(KEYS[1], keep_from - 1)
if not block then
  return hole(KEYS[1], keep_from - 1)
end
local tag = tag_in(block, keep_from - 1)
call('XTRIM', KEYS[1], 'MINID', '=', format('%.0f-0', keep_from))
call('HSET', KEYS[2], 'first', format('%.0f', keep_from), 'trim_tag', tag)
return {meta[1], format('%.0f', keep_from - 1), tag}
