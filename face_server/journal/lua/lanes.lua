-- Lanes with something to deliver, in the order in which they were first used. ARGV: journal, whose lanes may be left out, lease in
-- ms: with a name, lanes that another owns are left out.
local refusal = changed()
if refusal then
  return refusal
end
local me, lease_ms, taken = ARGV[2], tonumber(ARGV[3]), {}
if me ~= '' then
  for _, claim in ipairs(redis.call('XPENDING', key('lanes'), 'senders', '-', '+', 100000)) do
    taken[claim[1]] = claim[2] ~= me and claim[3] < lease_ms
  end
end
local found = {}
for _, entry in ipairs(redis.call('XRANGE', key('lanes'), '-', '+')) do
  local lane = value_of(entry[2], 'lane')
  if lane and not taken[entry[1]] and redis.call('XLEN', key('lane:' .. lane)) > 0 then
    table.insert(found, lane)
  end
end
return found
