-- Go on owning lanes. ARGV: journal, who, then the lanes. Returns those that are not one's own any more.
local refusal = changed()
if refusal then
  return refusal
end
local me, lost = ARGV[2], {}
for place = 3, #ARGV do
  local entry, consumer = owner(ARGV[place])
  if consumer == me then
    redis.call('XCLAIM', key('lanes'), 'senders', me, 0, entry, 'JUSTID')
  else
    table.insert(lost, ARGV[place])
  end
end
return lost
