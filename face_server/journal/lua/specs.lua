-- All stream specs, in the order in which they were added. Returns how often they were changed, then id and record of each.
local refusal = changed()
if refusal then
  return refusal
end
local found, seen = { redis.call('HGET', key('counters'), 'streams') or '0' }, {}
for _, id in ipairs(redis.call('ZRANGE', key('stream_order'), 0, -1)) do
  local record = redis.call('HGET', key('streams'), id)
  if record then
    table.insert(found, id)
    table.insert(found, record)
    seen[id] = true
  end
end
for _, id in ipairs(redis.call('HKEYS', key('streams'))) do
  if not seen[id] then
    table.insert(found, id)
    table.insert(found, redis.call('HGET', key('streams'), id))
  end
end
return found
