#!lua flags=no-writes
-- Read a page of a log, or only its head.
--
-- KEYS     stream, meta
-- ARGV     after (an offset), limit (entries), bytes_max (of packed values)
-- Returns  false where there is no such log, else
--          msgpack {epoch, head, before, tag before, tag after, {ts_ms, packed, ts_ms, packed...}}
--
-- A page begins at the first entry that is kept and holds at least one entry where there is one. Blocks are
-- taken from the stream in steps, so that a page of large entries is never read whole to be thrown away.

local STEP_FIRST, STEP_MAX = 32, 256

local after, limit, bytes_max = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local meta = call('HMGET', KEYS[2], 'epoch', 'head', 'tag', 'first', 'trim_tag')
if not meta[1] then
  return false
end
local epoch, head, first = meta[1], tonumber(meta[2]), tonumber(meta[4])
if after >= head then
  return cmsgpack.pack({epoch, head, head, meta[3], meta[3], {}})
end

local before, tag_before = after, nil
if after < first then
  before, tag_before = first - 1, meta[5] or first_tag(epoch)
end

local page, bytes, largest, count = {}, 0, 0, 0
local at, tag_after = before, tag_before -- where the page ends so far

local function reply()
  return cmsgpack.pack({epoch, head, before, tag_before, tag_after, page})
end

local step = STEP_FIRST
while at < head and count < limit and (count == 0 or bytes < bytes_max) do
  local wanted = tag_before and at + 1 or at -- the block that holds the entry before the page knows its tag
  local blocks = blocks_from(KEYS[1], wanted, math.min(step, limit - count + 1, head - at + 1))
  for i = 1, math.max(#blocks, 1) do
    local block = blocks[i]
    if not block or block.first > wanted then
      return hole(KEYS[1], wanted)
    end
    if not tag_before then
      tag_before = tag_in(block, before)
    end
    local size_before = bytes
    for place = at - block.first + 2, #block.entries do
      local packed = block.entries[place]
      if count == limit or (count > 0 and bytes + #packed > bytes_max) then
        tag_after = tag_in(block, at)
        return reply()
      end
      at, count, bytes = at + 1, count + 1, bytes + #packed
      page[2 * count - 1], page[2 * count] = block.ts, packed
    end
    largest = math.max(largest, bytes - size_before)
    tag_after, wanted = tag_in(block, at), at + 1
  end
  step = math.max(1, math.min(STEP_MAX, math.floor((bytes_max - bytes) / math.max(largest, 1)) + 1))
end
return reply()
