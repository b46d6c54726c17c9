-- Change events that nobody changed meanwhile. ARGV: journal, key of the rename, its record with what is done now ('' when all is),
-- document of [cursor, [index to leave...], [index to enter...]], then old and new value of each. Returns how many, and whether all.
local refusal = changed()
if refusal then
  return refusal
end
local rename, record, document = ARGV[2], ARGV[3], cjson.decode(ARGV[4])
local followed, all = 0, 1
for place, change in ipairs(document) do
  local cursor, now = change[1], redis.call('HGET', key('events'), change[1])
  if now == ARGV[3 + 2 * place] then
    redis.call('HSET', key('events'), cursor, ARGV[4 + 2 * place])
    for _, name in ipairs(change[2]) do
      redis.call('ZREM', key('index:' .. name), cursor)
    end
    for _, name in ipairs(change[3]) do
      redis.call('ZADD', key('index:' .. name), cursor, cursor)
    end
    followed = followed + 1
  elseif now then
    all = 0
  end
end
if all == 1 and redis.call('HEXISTS', key('renames'), rename) == 1 then
  if record == '' then
    redis.call('HDEL', key('renames'), rename)
  else
    redis.call('HSET', key('renames'), rename, record)
  end
end
return { followed, all }
