-- Store events, pictures and deliveries, all or none. ARGV: journal, newest cursor that the caller has been given, now,
-- max_pending, max_dead, document, a value an event, the bytes of each picture.
-- Document: events as [id, at, [index...], [picture id...], [lane...]], pictures as [id...].
local refusal = changed()
if refusal then
  return refusal
end
local now, max_pending, max_dead, document = ARGV[3], ARGV[4], ARGV[5], cjson.decode(ARGV[6])
local bytes = {}
for place, id in ipairs(document.pictures) do
  bytes[id] = ARGV[6 + #document.events + place]
end
-- What cannot be undone begins after everything was looked at.
for _, kind in ipairs({
  { 'counters', 'hash' }, { 'log', 'zset' }, { 'events', 'hash' }, { 'times', 'zset' }, { 'picture_uses', 'hash' }, { 'held', 'zset' },
  { 'lanes', 'stream' }, { 'lane_entries', 'hash' }, { 'deliveries', 'hash' }, { 'dead', 'stream' }, { 'event_news', 'stream' },
}) do
  refusal = refusal or misused(kind[1], kind[2])
end
for _, event in ipairs(document.events) do
  for _, name in ipairs(event[3]) do
    refusal = refusal or misused('index:' .. name, 'zset')
  end
  for _, id in ipairs(event[4]) do
    refusal = refusal or misused('picture:' .. id, 'string')
  end
  for _, lane in ipairs(event[5]) do
    refusal = refusal or misused('lane:' .. lane, 'stream')
  end
end
if refusal then
  return refusal
end

local before = redis.call('HGET', key('counters'), 'cursor') or '0'
local stored, order, lanes, newest = {}, {}, {}, nil
for place, event in ipairs(document.events) do
  local id, at = event[1], event[2]
  local known = redis.call('ZSCORE', key('log'), id)
  if known then
    table.insert(stored, { known, redis.call('HGET', key('events'), known) })
  else
    local cursor = next_number('cursor')
    newest = cursor
    redis.call('ZADD', key('log'), cursor, id)
    redis.call('HSET', key('events'), cursor, ARGV[6 + place])
    redis.call('ZADD', key('times'), at, cursor)
    for _, name in ipairs(event[3]) do
      redis.call('ZADD', key('index:' .. name), cursor, cursor)
    end
    for _, picture in ipairs(event[4]) do
      redis.call('HINCRBY', key('picture_uses'), picture, 1)
      if bytes[picture] and redis.call('SETNX', key('picture:' .. picture), bytes[picture]) == 1 then
        redis.call('HINCRBY', key('counters'), 'picture_bytes', #bytes[picture])
      end
    end
    for _, lane in ipairs(event[5]) do
      if not lanes[lane] then
        lanes[lane] = {}
        table.insert(order, lane)
      end
      table.insert(lanes[lane], cursor)
    end
    table.insert(stored, { cursor, '', tonumber(at) })
  end
end
-- How far times of events are ahead of their cursors, and behind: a reader who wants a time knows where to begin.
for _, event in ipairs(stored) do
  local ahead = event[3] and event[3] * 1000 - tonumber(event[1])
  if ahead and ahead > tonumber(redis.call('HGET', key('counters'), 'ahead') or '0') then
    redis.call('HSET', key('counters'), 'ahead', text(math.ceil(ahead)))
  elseif ahead and -ahead > tonumber(redis.call('HGET', key('counters'), 'behind') or '0') then
    redis.call('HSET', key('counters'), 'behind', text(math.ceil(-ahead)))
  end
end
local erased = 0
for _, lane in ipairs(order) do
  erased = erased + queue(lane, lanes[lane], now, max_pending, max_dead)
end
if newest then
  redis.call('XADD', key('event_news'), 'MAXLEN', '~', 16, '*', 'cursor', newest)
end
local totals = { redis.call('ZCARD', key('log')), tonumber(redis.call('HGET', key('counters'), 'picture_bytes') or '0') }
local behind = tonumber(before) < tonumber(ARGV[2]) and 1 or 0
for _, event in ipairs(stored) do
  event[3] = nil
end
return { behind, erased, totals[1], totals[2], stored }
