-- Find the journal or begin a new one. ARGV: the id of a new journal, fingerprint of the sealing key.
local kinds = {
  counters = 'hash', streams = 'hash', stream_order = 'zset', events = 'hash', log = 'zset', times = 'zset', picture_uses = 'hash',
  lanes = 'stream', lane_entries = 'hash', deliveries = 'hash', tries = 'hash', held = 'zset', dead = 'stream', renames = 'hash',
  event_news = 'stream', stream_news = 'stream', about = 'hash',
}
for name, kind in pairs(kinds) do
  local refusal = misused(name, kind)
  if refusal then
    return refusal
  end
end
local id = redis.call('HGET', KEYS[1], 'id')
if not id then
  for name in pairs(kinds) do
    if redis.call('EXISTS', key(name)) == 1 then
      return redis.error_reply('DAMAGED ' .. key(name) .. ' is there, but ' .. KEYS[1] .. ' does not say what it belongs to')
    end
  end
  redis.call('HSET', KEYS[1], 'id', ARGV[1], 'seal', ARGV[2])
  id = ARGV[1]
end
if redis.call('HGET', KEYS[1], 'seal') ~= ARGV[2] then
  if redis.call('HLEN', key('streams')) > 0 then
    return redis.error_reply('SEALED')
  end
  redis.call('HSET', KEYS[1], 'seal', ARGV[2])
end
if redis.call('EXISTS', key('lanes')) == 0 or #redis.call('XINFO', 'GROUPS', key('lanes')) == 0 then
  redis.call('XGROUP', 'CREATE', key('lanes'), 'senders', '0', 'MKSTREAM')
end
return id
