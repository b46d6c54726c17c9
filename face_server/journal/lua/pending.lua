-- Deliveries of a lane, in order. ARGV: journal, lane, the id to begin after, limit. Returns [id, cursor, queued_at, tries, value] each.
local found = {}
for _, entry in ipairs(redis.call('XRANGE', key('lane:' .. ARGV[2]), '(' .. ARGV[3], '+', 'COUNT', ARGV[4])) do
  local id, cursor = string.match(entry[1], '^%d+'), value_of(entry[2], 'cursor') or ''
  local tries = redis.call('HGET', key('tries'), id) or '0 '
  table.insert(found, { id, cursor, value_of(entry[2], 'queued_at') or '', tries, redis.call('HGET', key('events'), cursor) })
end
return found
