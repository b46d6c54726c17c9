-- API keys. ARGV: verb, then for insert and delete the next revision, the id, and for insert record and limit; for read the revision
-- that the caller knows, then id and time of use of some keys. Read returns the revision and, if it is another, id, record, time each.
local refusal = misused('keys', 'hash') or misused('keys_used', 'hash') or misused('keys_revision', 'string')
if refusal then
  return refusal
end
local verb, revision, id = ARGV[1], ARGV[2], ARGV[3]
if verb == 'insert' then
  if redis.call('HLEN', key('keys')) >= tonumber(ARGV[5]) then
    return 0
  end
  redis.call('SET', key('keys_revision'), revision)
  return redis.call('HSET', key('keys'), id, ARGV[4])
elseif verb == 'delete' then
  -- Memory that is full must not keep a key from being revoked: what takes no memory comes first.
  local there = redis.call('HDEL', key('keys'), id)
  redis.call('HDEL', key('keys_used'), id)
  redis.call('DEL', key('keys_revision'))
  redis.pcall('SET', key('keys_revision'), revision)
  return there
end
for place = 3, #ARGV, 2 do
  if redis.call('HEXISTS', key('keys'), ARGV[place]) == 1 then
    -- Who may call must not depend on room for a note.
    redis.pcall('HSET', key('keys_used'), ARGV[place], ARGV[place + 1])
    redis.pcall('SET', key('keys_revision'), table.concat(redis.call('TIME'), '.'))
  end
end
local now = redis.call('GET', key('keys_revision')) or 'none'
if now ~= 'none' and now == revision then
  return { now }
end
local used, uses = {}, redis.call('HGETALL', key('keys_used'))
for place = 1, #uses, 2 do
  used[uses[place]] = uses[place + 1]
end
local found, keys = { now }, redis.call('HGETALL', key('keys'))
for place = 1, #keys, 2 do
  table.insert(found, keys[place])
  table.insert(found, keys[place + 1])
  table.insert(found, used[keys[place]] or '')
end
return found
