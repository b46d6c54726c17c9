-- Own a lane, if nobody else does. ARGV: journal, who, lease in ms, lane. Returns 1, or 0 if another owns it or nothing waits in it.
local refusal = changed()
if refusal then
  return refusal
end
local me, lease_ms, lane = ARGV[2], ARGV[3], ARGV[4]
local entry, consumer, idle_ms = owner(lane)
if not entry or (consumer ~= me and redis.call('XLEN', key('lane:' .. lane)) == 0) then
  return 0
end
if consumer and consumer ~= me and idle_ms < tonumber(lease_ms) then
  return 0
end
redis.call('XCLAIM', key('lanes'), 'senders', me, 0, entry, 'FORCE', 'LASTID', entry)
return 1
