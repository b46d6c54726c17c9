-- ARGV: epoch, revision and token of the copy, how many new templates to bring at once.
-- Returns 'empty' | 'broken' | 'same', or 'ok', revision and token now reached, revision of the store, and for each collection
-- of the entries since: number, settings, keys of touched people, what they are, keys of new templates, their records.

local function values(key, fields)
  local found = {}
  for first = 1, #fields, 1000 do
    for _, value in ipairs(redis.call('HMGET', key, unpack(fields, first, math.min(first + 999, #fields)))) do
      found[#found + 1] = value
    end
  end
  return found
end

local function collect(into, seen, packed)
  for place = 1, #packed, 8 do
    local key = packed:sub(place, place + 7)
    if not seen[key] then
      seen[key] = true
      into[#into + 1] = key
    end
  end
end

return answer(function()
  expect(KEYS[1], 'hash')
  expect(prefix .. 'log', 'stream')
  local state = redis.call('HMGET', KEYS[1], 'epoch', 'revision', 'token')
  if not state[1] then
    return { 'empty' }
  end
  local mine, theirs = tonumber(ARGV[2]), tonumber(state[2])
  if state[1] ~= ARGV[1] or theirs < mine then
    return { 'broken' }
  end
  if theirs == mine then
    return { state[3] == ARGV[3] and 'same' or 'broken' }
  end
  local reached, token, left = mine, ARGV[3], tonumber(ARGV[4])
  local order, touched = {}, {}
  for _, entry in ipairs(redis.call('XRANGE', prefix .. 'log', '(' .. whole(mine) .. '-0', '+', 'COUNT', 1000)) do
    local fields = {}
    for place = 1, #entry[2], 2 do
      fields[entry[2][place]] = entry[2][place + 1]
    end
    if entry[1] ~= whole(reached + 1) .. '-0' or fields.a ~= token then
      return { 'broken' }
    end
    local number = fields.c
    if not touched[number] then
      touched[number] = { people = {}, templates = {}, seen = {} }
      order[#order + 1] = number
    end
    collect(touched[number].people, touched[number].seen, fields.p)
    collect(touched[number].templates, touched[number].seen, fields.v)
    reached, token, left = reached + 1, fields.t, left - #fields.v / 8
    if left <= 0 then
      break
    end
  end
  if reached == mine then
    return { 'broken' }
  end
  local reply = { 'ok', whole(reached), token, state[2] }
  for _, number in ipairs(order) do
    local own, some = prefix .. 'c:' .. number, touched[number]
    reply[#reply + 1] = { number, redis.call('HGETALL', own), some.people, values(own .. ':people', some.people),
                          some.templates, values(own .. ':templates', some.templates) }
  end
  return reply
end)
