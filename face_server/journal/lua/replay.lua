-- Queue dead letters again, in order of their events, or none. ARGV: journal, now, max_pending, max_dead, then the ids in order.
local refusal = changed()
if refusal then
  return refusal
end
local now, max_pending, max_dead = ARGV[2], ARGV[3], ARGV[4]
local chosen = {}
for place = 5, #ARGV do
  local fields = entry_of('dead', ARGV[place])
  if fields then
    local lane = value_of(fields, 'lane')
    local stream = string.match(lane, '^[^/]*')
    if redis.call('HEXISTS', key('streams'), stream) == 0 then
      return redis.error_reply('REMOVED ' .. stream)
    end
    refusal = refusal or misused('lane:' .. lane, 'stream')
    table.insert(chosen, { ARGV[place], lane, value_of(fields, 'cursor'), place })
  end
end
if refusal then
  return refusal
end
table.sort(chosen, function(one, other)
  if tonumber(one[3]) ~= tonumber(other[3]) then
    return tonumber(one[3]) < tonumber(other[3])
  end
  return one[4] < other[4]
end)
local order, lanes = {}, {}
for _, letter in ipairs(chosen) do
  if not lanes[letter[2]] then
    lanes[letter[2]] = {}
    table.insert(order, letter[2])
  end
  table.insert(lanes[letter[2]], letter[3])
end
-- Queued first: memory that is full refuses that, and then no letter is lost.
local erased = 0
for _, lane in ipairs(order) do
  erased = erased + queue(lane, lanes[lane], now, max_pending, max_dead)
end
for _, letter in ipairs(chosen) do
  erase_letter(letter[1])
end
return { #chosen, erased }
