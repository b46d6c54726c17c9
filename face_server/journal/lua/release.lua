-- Own lanes no longer. ARGV: journal, who, whether also lanes in which something waits, then the lanes. Returns those that stay owned.
local refusal = changed()
if refusal then
  return refusal
end
local me, also_full, kept = ARGV[2], ARGV[3] == '1', {}
for place = 4, #ARGV do
  local lane = ARGV[place]
  local entry, consumer = owner(lane)
  if consumer == me then
    if redis.call('XLEN', key('lane:' .. lane)) == 0 then
      close_lane(lane, entry)
    elseif also_full then
      redis.call('XACK', key('lanes'), 'senders', entry)
    else
      table.insert(kept, lane)
    end
  end
end
if also_full then
  redis.call('XGROUP', 'DELCONSUMER', key('lanes'), 'senders', me)
end
return kept
