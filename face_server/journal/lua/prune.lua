-- Erase some events beyond the bounds. ARGV: journal, the time before which events are too old ('' for never), max_events,
-- max_picture_bytes, turn, the cursor to go on after, how many to erase and how many to look at.
-- Turn 1 spares what waits or died, turn 2 what waits, turn 3 nothing. Returns erased events, deliveries among them, turn, cursor, done.
local refusal = changed()
if refusal then
  return refusal
end
local oldest, max_events, max_bytes = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local turn, from, at_once, budget = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local erased, undelivered = 0, 0

local function head_of(cursor)
  local value = redis.call('HGET', key('events'), cursor)
  local fine, head = pcall(cjson.decode, value and string.match(value, '^[^\n]*') or '')
  return fine and type(head) == 'table' and head or {}
end

local function erase(cursor)
  local head = head_of(cursor)
  for _, name in ipairs(type(head['in']) == 'table' and head['in'] or {}) do
    redis.call('ZREM', key('index:' .. name), cursor)
  end
  for _, picture in ipairs(type(head.pictures) == 'table' and head.pictures or {}) do
    if redis.call('HINCRBY', key('picture_uses'), picture, -1) <= 0 then
      redis.call('HDEL', key('picture_uses'), picture)
      local size = redis.call('STRLEN', key('picture:' .. picture))
      redis.call('HINCRBY', key('counters'), 'picture_bytes', text(0 - size))
      redis.call('DEL', key('picture:' .. picture))
    end
  end
  for _, member in ipairs(redis.call('ZRANGE', key('held'), cursor, cursor, 'BYSCORE')) do
    local id = string.sub(member, 2)
    if string.sub(member, 1, 1) == 'd' then
      local lane = redis.call('HGET', key('deliveries'), id)
      if lane then
        take_out(id, lane, true)
        undelivered = undelivered + 1
      end
    else
      erase_letter(id)
    end
  end
  redis.call('ZREMRANGEBYSCORE', key('log'), cursor, cursor)
  redis.call('HDEL', key('events'), cursor)
  redis.call('ZREM', key('times'), cursor)
  erased = erased + 1
end

local function too_much()
  if redis.call('ZCARD', key('log')) > max_events then
    return 'events'
  end
  return tonumber(redis.call('HGET', key('counters'), 'picture_bytes') or '0') > max_bytes and 'pictures' or nil
end

local function spared(cursor, what)
  local waits, died = false, false
  for _, member in ipairs(redis.call('ZRANGE', key('held'), cursor, cursor, 'BYSCORE')) do
    waits, died = waits or string.sub(member, 1, 1) == 'd', died or string.sub(member, 1, 1) == 'l'
  end
  if (turn < 3 and waits) or (turn < 2 and died) then
    return true
  end
  if what == 'events' then
    return false
  end
  for _, picture in ipairs(head_of(cursor).pictures or {}) do
    if redis.call('EXISTS', key('picture:' .. picture)) == 1 then
      return false
    end
  end
  return true
end

if oldest ~= '' then
  for _, cursor in ipairs(redis.call('ZRANGE', key('times'), '-inf', '(' .. oldest, 'BYSCORE', 'LIMIT', 0, at_once)) do
    erase(cursor)
  end
end
local what = too_much()
local found = redis.call('ZRANGE', key('log'), '(' .. from, '+inf', 'BYSCORE', 'LIMIT', 0, budget, 'WITHSCORES')
for place = 2, #found, 2 do
  if not what or erased >= at_once then
    break
  end
  from = found[place]
  if not spared(from, what) then
    erase(from)
    what = too_much()
  end
end
if what and #found == 0 then
  turn, from = turn + 1, '0'
end
local done = (turn > 3 or (not what and erased < at_once)) and 1 or 0
if done == 1 then
  for _, entry in ipairs(redis.call('XRANGE', key('lanes'), '-', '+')) do
    local lane = value_of(entry[2], 'lane')
    if lane and redis.call('XLEN', key('lane:' .. lane)) == 0 and not select(2, owner(lane)) then
      close_lane(lane, entry[1])
    end
  end
  -- Replicas that vanished leave their names behind.
  for _, fields in ipairs(redis.call('XINFO', 'CONSUMERS', key('lanes'), 'senders')) do
    if value_of(fields, 'pending') == 0 and value_of(fields, 'idle') > 86400000 then
      redis.call('XGROUP', 'DELCONSUMER', key('lanes'), 'senders', value_of(fields, 'name'))
    end
  end
end
return { erased, undelivered, turn, from, done }
