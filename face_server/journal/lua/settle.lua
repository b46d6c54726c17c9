-- Deal with a delivery. ARGV: journal, verb (take, fail, bury), id, who, lease in ms, error, now, max_dead,
-- and of an entry that is not in order its lane, else ''.
local refusal = changed()
if refusal then
  return refusal
end
local verb, id, me, lease_ms, reason = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local lane = redis.call('HGET', key('deliveries'), id)
if not lane and ARGV[9] ~= '' then
  take_out(id, ARGV[9], true)
  return 0
elseif not lane then
  return redis.error_reply('UNKNOWN')
end
if owned_by_another(lane, me, lease_ms) then
  return redis.error_reply('OWNED')
end
if verb == 'take' then
  take_out(id, lane, true)
elseif verb == 'fail' then
  local tries = tonumber(string.match(redis.call('HGET', key('tries'), id) or '0', '^%d+'))
  redis.call('HSET', key('tries'), id, text(tries + 1) .. ' ' .. reason)
else
  return bury({ id }, reason, ARGV[7], ARGV[8])
end
return 0
