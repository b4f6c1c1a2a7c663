#!lua
-- Do a batch of commits of one partition, each whole or not at all, in the order given.
--
-- KEYS     every key that the batch reads or writes; ARGV[1] refers to them by index, from 1
-- ARGV[1]  msgpack {hub, whether it listens to the channel itself, channel, producer_ttl_ms, {commit, ...}}
--   commit    {id, {guard...}, {append...}, {op...}, {hint...}}
--   guard     {key, field, expected or false}   {key, false, how many fields it has fewer than}
--             {key, false, how many fields it has at least, true}   {key, true, every_us, burst} a token is there
--   append    {stream, meta, producers, index, name, wake name, epoch, expect or false, claim or false, {packed...}}
--   claim     {field, fence, seq, count, digest}
--   op        {1 HSET, key, ttl_ms or false, {field, value...}}   {2 HDEL, key, {field...}}
--             {3 ZADD, key, member, score, from_now, whether it must be new, key that must be there or false}
--             {4 ZREM, key, member}   {5 SADD, key, member}   {6 SREM, key, member, key that must not be there}
--             {7 ZREM, key, member, key that must not be there}   {8 take a token, key, every_us, burst}
-- Returns msgpack {now_ms, {outcome...}}
--   outcome   {0, appended...} done   {1, appended...} done at an earlier try
--             {2, reason, append, guard, actual, last, head} refused; indices from 0, false where there is nothing
--   appended  {epoch, before, tag before, after, tag after, ts_ms, skipped, last_offset, last_seq}
--
-- Entries go into the stream in blocks, which `blocks.lua` describes.
-- The channel is no declared key: nothing is stored there. Lua does not roll back, so every check of a commit
-- comes before its first write. The shebang makes the server refuse the whole script where it is full or read-only.
-- Where logs end and what producers sent is kept at hand and written once, at the end or before somebody looks:
-- `written` below, which runs even where the server refuses a write, so that no entry is without its head.

local GUARD, FENCED, OUT_OF_ORDER, CONFLICT, PRODUCER_UNKNOWN, EXPECT = 1, 2, 3, 4, 5, 6
local COMMITS_KEPT_BYTES = 512
-- Of one block. For a small entry, an element of the stream to itself is more than half of the work; larger blocks
-- gain little, and whoever begins to read inside one makes the tags up to there anew.
local BLOCK_ENTRIES_MAX, BLOCK_BYTES_MAX = 64, 32768

local call, sha1hex, pack = redis.call, redis.sha1hex, cmsgpack.pack
local format, sub, find, match = string.format, string.sub, string.find, string.match

local request = cmsgpack.unpack(ARGV[1])
local hub, listens, channel, producer_ttl_ms, commits = request[1], request[2], request[3], request[4], request[5]

local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local logs, records = {}, {} -- what was read, by index of the meta key and of the producers key
local heads, hints = {}, {}

local function digits(number)
  return format('%.0f', number)
end

local KEPT_AT_HAND = {epoch = true, head = true, tag = true, ts = true, first = true, commit = true}

local function write_log(key)
  local log = logs[key]
  if log and log.changed then
    log.changed = false
    if log.made then
      log.made = false
      call('HSET', KEYS[key], 'epoch', log.epoch, 'head', digits(log.head), 'tag', log.tag, 'ts', digits(log.ts),
        'first', '1', 'commit', log.commits)
    elseif log.remembered then
      call('HSET', KEYS[key], 'head', digits(log.head), 'tag', log.tag, 'ts', digits(log.ts), 'commit', log.commits)
    else
      call('HSET', KEYS[key], 'head', digits(log.head), 'tag', log.tag, 'ts', digits(log.ts))
    end
    log.remembered = false
  end
end

local function write_records(key)
  for field, record in pairs(records[key] or {}) do
    if record.changed then
      record.changed = false
      call('HSET', KEYS[key], field, format('%.0f %.0f %.0f %.0f %s %.0f',
        record.fence, record.last, record.last_offset, record.first, record.digest, record.ts))
    end
  end
end

-- Whoever looks at a key or changes it finds there what this script has at hand of it.
local function write_at_hand(key)
  write_log(key)
  write_records(key)
end

local function written()
  for key in pairs(logs) do
    write_log(key)
  end
  for key in pairs(records) do
    write_records(key)
  end
end

local function log_of(append)
  local log = logs[append[2]]
  if not log then
    local meta = call('HMGET', KEYS[append[2]], 'epoch', 'head', 'tag', 'ts', 'commit')
    if meta[1] then
      log = {epoch = meta[1], head = tonumber(meta[2]), tag = meta[3], ts = tonumber(meta[4]), commits = meta[5] or ' '}
    else
      log = {head = 0, ts = 0, commits = ' '}
    end
    logs[append[2]] = log
  end
  return log
end

local function record_of(append)
  local key, field = append[3], append[9][1]
  local known = records[key]
  if not known then
    known = {}
    records[key] = known
  end
  local record = known[field]
  if not record then
    local value = call('HGET', KEYS[key], field)
    if not value then
      return nil
    end
    local fence, last, last_offset, first, digest, ts = match(value, '^(%d+) (%d+) (%d+) (%d+) (%S*) (%d+)$')
    record = {
      fence = tonumber(fence), last = tonumber(last), last_offset = tonumber(last_offset),
      first = tonumber(first), digest = digest, ts = tonumber(ts),
    }
    known[field] = record
  end
  return record
end

-- Fence, then dedupe: how many entries were accepted before, or nil, reason, last.
local function check_claim(append)
  local claim, record = append[9], record_of(append)
  if not record or record.ts + producer_ttl_ms < now then
    return nil, PRODUCER_UNKNOWN, record and record.last or false
  end
  local last, seq = record.last, claim[3]
  local upto = seq + claim[4] - 1
  if claim[2] ~= record.fence then
    return nil, FENCED, last
  elseif upto < seq then
    return 0
  elseif upto == last and seq == record.first and claim[5] ~= record.digest then
    return nil, CONFLICT, last
  elseif upto <= last then
    return #append[10]
  elseif seq > last + 1 then
    return nil, OUT_OF_ORDER, last
  end
  return last + 1 - seq
end

-- When a token bucket would be full again, in µs: now at the earliest; one that says later than it can is of another clock.
local function full_at(key, every, burst)
  local now_us = now * 1000
  local at = tonumber(call('HGET', KEYS[key], 'next_us') or 0)
  return at > now_us + burst * every and now_us or math.max(at, now_us), now_us
end

local function exists(key)
  write_at_hand(key)
  return call('EXISTS', KEYS[key]) == 1
end

-- Whether a guard does not hold, and what there is instead.
local function fails(guard)
  if guard[2] == true then
    local at, now_us = full_at(guard[1], guard[3], guard[4])
    return at > now_us + (guard[4] - 1) * guard[3], digits(at)
  elseif not guard[2] then
    write_at_hand(guard[1])
    local size = call('HLEN', KEYS[guard[1]])
    return (size >= guard[3]) ~= (guard[4] == true), digits(size)
  end
  if KEPT_AT_HAND[guard[2]] then
    write_log(guard[1])
  end
  write_records(guard[1])
  local actual = call('HGET', KEYS[guard[1]], guard[2])
  return actual ~= guard[3], actual
end

-- Every check of the commit: how many entries to skip for each append and whether all was done before, or nil, refusal.
local function check(commit)
  local appends, skips = commit[3], {}
  local first = appends[1]
  if first and find(log_of(first).commits, ' ' .. commit[1] .. ' ', 1, true) then
    return skips, true
  end
  local numbered, old = 0, 0
  for i = 1, #appends do
    local append = appends[i]
    skips[i] = 0
    if append[9] then
      local skip, reason, last = check_claim(append)
      if not skip then
        return nil, {2, reason, i - 1, 0, false, last, false}
      end
      skips[i] = skip
      if append[9][4] > 0 then
        numbered = numbered + 1
        if skip == #append[10] then
          old = old + 1
        end
      end
    end
  end
  if numbered > 0 and old == numbered then
    return skips, true
  end
  local guards = commit[2]
  for i = 1, #guards do
    local refused, actual = fails(guards[i])
    if refused then
      return nil, {2, GUARD, 0, i - 1, actual, false, false}
    end
  end
  for i = 1, #appends do
    local expect = appends[i][8]
    if expect then
      local head = log_of(appends[i]).head
      if head ~= expect then
        return nil, {2, EXPECT, i - 1, 0, false, false, head}
      end
    end
  end
  return skips, false
end

local function repeated(commit)
  local outcome = {1}
  for i, append in ipairs(commit[3]) do
    local log = log_of(append)
    local epoch = log.epoch or append[7]
    local tag = log.tag or sub(sha1hex('fleetline1' .. epoch), 1, 16)
    local record = append[9] and record_of(append)
    local last_offset, last_seq = record and record.last_offset or log.head, record and record.last or 0
    outcome[i + 1] = {epoch, log.head, tag, log.head, tag, log.ts, #append[10], last_offset, last_seq}
  end
  return outcome
end

local function remember(log, id)
  local kept = ' ' .. id .. log.commits
  if #kept > COMMITS_KEPT_BYTES then
    kept = match(sub(kept, 1, COMMITS_KEPT_BYTES), '^.* ')
  end
  log.commits, log.remembered, log.changed = kept, true, true
end

local function add_entries(append, log, skip)
  local entries, stream = append[10], KEYS[append[1]]
  local head, tag = log.head, log.tag
  local glue = ':' .. digits(log.ts) .. ':'
  local at = skip + 1
  while at <= #entries do
    local first, tag_before, bytes = at, tag, 0
    repeat
      local packed = entries[at]
      head, bytes, at = head + 1, bytes + #packed, at + 1
      tag = sub(sha1hex(tag .. format('%d', head) .. glue .. packed), 1, 16)
    until at > #entries or at - first == BLOCK_ENTRIES_MAX or bytes + #entries[at] > BLOCK_BYTES_MAX
    local block = pack({log.ts, tag_before, tag, {unpack(entries, first, at - 1)}})
    call('XADD', stream, digits(head) .. '-0', 'block', block)
  end
  log.head, log.tag = head, tag
end

local function write_record(append, skip, before)
  local claim, record = append[9], record_of(append)
  local added = claim[4] - skip
  if added > 0 then
    record.last, record.last_offset = claim[3] + claim[4] - 1, before + added
    record.first, record.digest = claim[3], claim[5]
  end
  record.ts, record.changed = now, true
  return record.last_offset, record.last
end

local function write_append(append, skip, id)
  local log = log_of(append)
  local made = not log.epoch
  if made then
    log.made, log.changed = true, true
    log.epoch, log.tag, log.ts = append[7], sub(sha1hex('fleetline1' .. append[7]), 1, 16), now
    call('ZADD', KEYS[append[4]], digits(now), append[5])
  end
  local before, tag_before = log.head, log.tag
  if skip < #append[10] then
    log.ts, log.changed = math.max(log.ts, now), true
    add_entries(append, log, skip)
  end
  if id then
    remember(log, id)
  end
  local last_offset, last_seq = log.head, 0
  if append[9] then
    last_offset, last_seq = write_record(append, skip, before)
  end
  if made or log.head > before then
    heads[append[6]] = log.head
  end
  return {log.epoch, before, tag_before, log.head, log.tag, log.ts, skip, last_offset, last_seq}
end

local apply = {
  function(op)
    call('HSET', KEYS[op[2]], unpack(op[4]))
    if op[3] then
      call('PEXPIRE', KEYS[op[2]], digits(op[3]))
    end
  end,
  function(op)
    call('HDEL', KEYS[op[2]], unpack(op[3]))
  end,
  function(op)
    if op[7] and not exists(op[7]) then
      return
    end
    local score = digits(op[5] and now + op[4] or op[4])
    if op[6] then
      call('ZADD', KEYS[op[2]], 'NX', score, op[3])
    else
      call('ZADD', KEYS[op[2]], score, op[3])
    end
  end,
  function(op)
    call('ZREM', KEYS[op[2]], op[3])
  end,
  function(op)
    call('SADD', KEYS[op[2]], op[3])
  end,
  function(op)
    if not exists(op[4]) then
      call('SREM', KEYS[op[2]], op[3])
    end
  end,
  function(op)
    if not exists(op[4]) then
      call('ZREM', KEYS[op[2]], op[3])
    end
  end,
  function(op)
    call('HSET', KEYS[op[2]], 'next_us', digits(full_at(op[2], op[3], op[4]) + op[3]))
  end,
}

local function write(commit, skips)
  local outcome, appends, ops = {0}, commit[3], commit[4]
  for i = 1, #appends do
    local append = appends[i]
    local own = i == 1 and not (append[9] and append[9][4] > 0) -- producers recognise their own retries
    outcome[i + 1] = write_append(append, skips[i], own and commit[1])
  end
  for i = 1, #ops do
    local op = ops[i]
    write_at_hand(op[2])
    apply[op[1]](op)
    logs[op[2]], records[op[2]] = nil, nil -- it may have changed what was read
  end
  for _, hint in ipairs(commit[5]) do
    hints[#hints + 1] = hint
  end
  return outcome
end

local function commit_all()
  local outcomes = {}
  for i = 1, #commits do
    local skips, answer = check(commits[i])
    if not skips then
      outcomes[i] = answer
    elseif answer then
      outcomes[i] = repeated(commits[i])
    else
      outcomes[i] = write(commits[i], skips)
    end
  end
  return outcomes
end

local ok, outcomes = pcall(commit_all)
written()
if not ok then
  return redis.error_reply('FLSCRIPT ' .. tostring(type(outcomes) == 'table' and outcomes.err or outcomes))
end
-- A hub that has the deployment to itself need not be told of what it did: that costs it a wake-up for every commit.
if (next(heads) or #hints > 0) and call('PUBSUB', 'SHARDNUMSUB', channel)[2] > (listens and 1 or 0) then
  local flat = {}
  for name, head in pairs(heads) do
    flat[#flat + 1] = name
    flat[#flat + 1] = head
  end
  call('SPUBLISH', channel, pack({hub, flat, hints}))
end
return pack({now, outcomes})
