#!lua flags=no-writes
-- Look up the tags of entries.
--
-- KEYS     stream, meta
-- ARGV     offsets
-- Returns  one tag for each offset, false where there is no such entry (any more)
--
-- The position before the first entry that is kept has a tag too: tag_0, or the tag at the cut.

local tags, block = {}, nil
local meta = call('HMGET', KEYS[2], 'epoch', 'head', 'first', 'trim_tag')
local head, first = tonumber(meta[2] or 0), tonumber(meta[3] or 1)
for i = 1, #ARGV do
  local offset = tonumber(ARGV[i])
  if not meta[1] or offset < first - 1 or offset > head then
    tags[i] = false
  elseif offset == first - 1 then
    tags[i] = meta[4] or first_tag(meta[1])
  else
    if not block or offset < block.first or offset > block.last then
      block = block_at(KEYS[1], offset)
    end
    tags[i] = block and tag_in(block, offset) or false
  end
end
return tags
