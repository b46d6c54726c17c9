-- Events that pass a filter. ARGV: journal, after, before, limit, order (ASC or DESC), since, until, and how many entries to look at;
-- then one group of indexes a condition, each as their number and their names: an event is in one index of every group.
local after, before, limit, order, since, till, budget = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8])
local groups, place = {}, 9
while ARGV[place] do
  local names = {}
  for number = 1, tonumber(ARGV[place]) do
    names[number] = key('index:' .. ARGV[place + number])
  end
  table.insert(groups, names)
  place = place + 1 + #names
end
-- Walk along the shortest index that all of them are in.
local base, shortest, taken = key('log'), redis.call('ZCARD', key('log')), nil
for number, names in ipairs(groups) do
  local length = #names == 1 and redis.call('ZCARD', names[1])
  if length and length <= shortest then
    base, shortest, taken = names[1], length, number
  end
end
if since ~= '' then
  local ahead = tonumber(redis.call('HGET', key('counters'), 'ahead') or '0')
  after = text(math.max(tonumber(after), math.floor(since * 1000 - ahead) - 1))
end
if till ~= '' then
  local behind = tonumber(redis.call('HGET', key('counters'), 'behind') or '0')
  before = text(math.min(before == '' and math.huge or tonumber(before), math.ceil(till * 1000 + behind) + 1))
end
local low, high = '(' .. after, before == '' and '+inf' or '(' .. before
local found
if order == 'ASC' then
  found = redis.call('ZRANGE', base, low, high, 'BYSCORE', 'LIMIT', 0, budget, 'WITHSCORES')
else
  found = redis.call('ZRANGE', base, high, low, 'BYSCORE', 'REV', 'LIMIT', 0, budget, 'WITHSCORES')
end
local cursors, out = {}, {}
for number = 2, #found, 2 do
  table.insert(cursors, found[number])
  out[number / 2] = false
end
if #cursors == 0 then
  return { '' }
end
local function is_in(names)
  local inside = {}
  for _, name in ipairs(names) do
    for number, score in ipairs(redis.call('ZMSCORE', name, unpack(cursors))) do
      inside[number] = inside[number] or (score and true)
    end
  end
  for number = 1, #cursors do
    out[number] = out[number] or not inside[number]
  end
end
for number, names in ipairs(groups) do
  if number ~= taken then
    is_in(names)
  end
end
if since ~= '' or till ~= '' then
  for number, at in ipairs(redis.call('ZMSCORE', key('times'), unpack(cursors))) do
    at = tonumber(at or 'nan')
    out[number] = out[number] or not at or (since ~= '' and not (at >= tonumber(since))) or (till ~= '' and not (at < tonumber(till)))
  end
end
local resume, page = #cursors == budget and cursors[#cursors] or '', {}
for number, cursor in ipairs(cursors) do
  if not out[number] then
    if #page == 2 * limit then
      resume = page[#page - 1]
      break
    end
    table.insert(page, cursor)
    table.insert(page, redis.call('HGET', key('events'), cursor))
  end
end
return { resume, unpack(page) }
