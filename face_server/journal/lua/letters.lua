-- Dead letters, by id. ARGV: journal, the id to begin after, limit. Returns [id, lane, cursor, attempts, error, died_at, value] each.
local found = {}
for _, entry in ipairs(redis.call('XRANGE', key('dead'), '(' .. ARGV[2], '+', 'COUNT', ARGV[3])) do
  local letter = { string.match(entry[1], '^%d+') }
  for place, name in ipairs({ 'lane', 'cursor', 'attempts', 'error', 'died_at' }) do
    letter[place + 1] = value_of(entry[2], name) or ''
  end
  letter[7] = redis.call('HGET', key('events'), letter[3])
  table.insert(found, letter)
end
return found
