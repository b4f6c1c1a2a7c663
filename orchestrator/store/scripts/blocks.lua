-- How entries lie in a log's stream. No script by itself: it stands in front of those that read streams.
--
-- An element of the stream is a block: entries that one append wrote, one after the other. Its id is `<last>-0`,
-- the offset of the last of them; its one field holds msgpack {ts_ms, tag before, tag of the last, {packed...}}.
-- `commit.lua` writes blocks.

local call, format = redis.call, string.format

local function first_tag(epoch)
  return string.sub(redis.sha1hex('fleetline1' .. epoch), 1, 16)
end

-- Up to `count` blocks, from the one that holds the entry at `offset` or else the next one.
local function blocks_from(stream, offset, count)
  local found = call('XRANGE', stream, format('%.0f-0', offset), '+', 'COUNT', format('%.0f', count))
  for i = 1, #found do
    local last, value = tonumber(string.sub(found[i][1], 1, -3)), cmsgpack.unpack(found[i][2][2])
    local entries = value[4]
    found[i] = {first = last - #entries + 1, last = last, ts = value[1], entries = entries,
      tags = {[0] = value[2], [#entries] = value[3]}}
  end
  return found
end

-- The block that holds the entry at `offset`, or nil.
local function block_at(stream, offset)
  local block = blocks_from(stream, offset, 1)[1]
  return block and block.first <= offset and block or nil
end

-- The tag at an offset in a block, or right before it.
local function tag_in(block, offset)
  local tags, place = block.tags, offset - block.first + 1
  local known = place
  while not tags[known] do
    known = known - 1
  end
  for i = known + 1, place do
    local head = format('%s%.0f:%.0f:', tags[i - 1], block.first + i - 1, block.ts)
    tags[i] = string.sub(redis.sha1hex(head .. block.entries[i]), 1, 16)
  end
  return tags[place]
end

local function hole(stream, offset)
  return redis.error_reply('FLHOLE ' .. stream .. ' has no entry ' .. format('%.0f', offset))
end
