-- Add, replace or remove a stream spec. ARGV: journal, verb, id, fingerprint of the sealing key, record, max_streams, now, max_dead.
local verb, id = ARGV[2], ARGV[3]
local refusal = changed() or misused('streams', 'hash') or misused('stream_order', 'zset') or misused('stream_news', 'stream')
if refusal then
  return refusal
end
local there = redis.call('HEXISTS', key('streams'), id) == 1
if verb == 'add' and there then
  return redis.error_reply('EXISTS')
elseif verb ~= 'add' and not there then
  return redis.error_reply('UNKNOWN')
end
if verb ~= 'remove' and redis.call('HGET', KEYS[1], 'seal') ~= ARGV[4] then
  return redis.error_reply('SEALED')
end
if verb == 'add' and redis.call('HLEN', key('streams')) >= tonumber(ARGV[6]) then
  return redis.error_reply('FULL')
end
redis.call('HINCRBY', key('counters'), 'streams', 1)
local erased = 0
if verb == 'remove' then
  local waiting = {}
  for _, lane in ipairs(redis.call('HKEYS', key('lane_entries'))) do
    if string.sub(lane, 1, #id + 1) == id .. '/' then
      for _, one in ipairs(redis.call('XRANGE', key('lane:' .. lane), '-', '+')) do
        table.insert(waiting, string.match(one[1], '^%d+'))
      end
    end
  end
  -- Numbers of as many digits are in order as text.
  table.sort(waiting)
  erased = bury(waiting, 'the stream was removed', ARGV[7], ARGV[8])
  redis.call('HDEL', key('streams'), id)
  redis.call('ZREM', key('stream_order'), id)
else
  redis.call('HSET', key('streams'), id, ARGV[5])
  if not there then
    redis.call('ZADD', key('stream_order'), next_number('stream_order'), id)
  end
end
redis.call('XADD', key('stream_news'), 'MAXLEN', '~', 16, '*', 'stream', id)
return erased
