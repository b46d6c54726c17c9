-- What scripts about deliveries share. An entry of the stream "lanes" stands for a lane with something to deliver; whoever has it
-- pending in the group "senders" owns the lane.
local function owner(lane)
  local entry = redis.call('HGET', key('lane_entries'), lane)
  if not entry then
    return nil
  end
  local claim = redis.call('XPENDING', key('lanes'), 'senders', entry, entry, 1)[1]
  return entry, claim and claim[2], claim and claim[3]
end

local function owned_by_another(lane, me, lease_ms)
  local _, consumer, idle_ms = owner(lane)
  return consumer and consumer ~= me and idle_ms < tonumber(lease_ms)
end

local function close_lane(lane, entry)
  redis.call('XACK', key('lanes'), 'senders', entry)
  redis.call('XDEL', key('lanes'), entry)
  redis.call('HDEL', key('lane_entries'), lane)
  redis.call('DEL', key('lane:' .. lane))
end

local function value_of(fields, name)
  for place = 1, #fields, 2 do
    if fields[place] == name then
      return fields[place + 1]
    end
  end
end

local function entry_of(stream, id)
  local found = redis.call('XRANGE', key(stream), id .. '-0', id .. '-0')[1]
  return found and found[2]
end

-- Take a delivery out of its lane. A lane that is empty then is closed, unless somebody owns it and will notice.
local function take_out(id, lane, cursor)
  redis.call('XDEL', key('lane:' .. lane), id .. '-0')
  redis.call('HDEL', key('deliveries'), id)
  redis.call('HDEL', key('tries'), id)
  if cursor then
    redis.call('ZREM', key('held'), 'd' .. id)
  end
  if redis.call('XLEN', key('lane:' .. lane)) == 0 then
    local entry, consumer = owner(lane)
    if entry and not consumer then
      close_lane(lane, entry)
    end
  end
end

local function erase_letter(id)
  redis.call('ZREM', key('held'), 'l' .. id)
  return redis.call('XDEL', key('dead'), id .. '-0')
end

-- Turn deliveries into dead letters, in the order given. Returns how many letters had to go for them.
local function bury(ids, reason, now, max_dead)
  for _, id in ipairs(ids) do
    local lane = redis.call('HGET', key('deliveries'), id)
    local fields = lane and entry_of('lane:' .. lane, id)
    if fields then
      local cursor, letter = value_of(fields, 'cursor'), next_number('letter')
      local tries = string.match(redis.call('HGET', key('tries'), id) or '0', '^%d+')
      redis.call('XADD', key('dead'), letter .. '-0', 'lane', lane, 'cursor', cursor, 'attempts', tries, 'error', reason, 'died_at', now)
      redis.call('ZADD', key('held'), cursor, 'l' .. letter)
    end
    if lane then
      take_out(id, lane, true)
    end
  end
  local excess = redis.call('XLEN', key('dead')) - tonumber(max_dead)
  if excess <= 0 then
    return 0
  end
  for _, one in ipairs(redis.call('XRANGE', key('dead'), '-', '+', 'COUNT', excess)) do
    erase_letter(string.match(one[1], '^%d+'))
  end
  return excess
end

-- Put events at the end of a lane; beyond its bound the oldest become dead letters. Returns how many letters had to go for them.
local function queue(lane, cursors, now, max_pending, max_dead)
  if redis.call('HEXISTS', key('lane_entries'), lane) == 0 then
    redis.call('HSET', key('lane_entries'), lane, redis.call('XADD', key('lanes'), '*', 'lane', lane))
  end
  for _, cursor in ipairs(cursors) do
    local id = next_number('delivery')
    redis.call('XADD', key('lane:' .. lane), id .. '-0', 'cursor', cursor, 'queued_at', now)
    redis.call('HSET', key('deliveries'), id, lane)
    redis.call('ZADD', key('held'), cursor, 'd' .. id)
  end
  local excess = redis.call('XLEN', key('lane:' .. lane)) - tonumber(max_pending)
  if excess <= 0 then
    return 0
  end
  local ids = {}
  for _, one in ipairs(redis.call('XRANGE', key('lane:' .. lane), '-', '+', 'COUNT', excess)) do
    table.insert(ids, string.match(one[1], '^%d+'))
  end
  return bury(ids, 'more than ' .. max_pending .. ' events were waiting for this sink', now, max_dead)
end
