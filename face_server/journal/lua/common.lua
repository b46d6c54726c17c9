-- Comes before every script of the journal. KEYS[1] is the key "about": all others share its prefix, and so its slot in a Cluster.
-- ARGV[1] is the id of the journal that the caller knows. Numbers go out as text: cursors have 13 digits.
local prefix = string.sub(KEYS[1], 1, -6)

local function key(name)
  return prefix .. name
end

local function text(number)
  return string.format('%.0f', number)
end

-- The refusal of a key that is not what it has to be, or nil.
local function misused(name, kind)
  local found = redis.call('TYPE', key(name)).ok
  if found ~= kind and found ~= 'none' then
    return redis.error_reply('MISUSED ' .. key(name) .. ' holds a ' .. found .. ', not a ' .. kind)
  end
end

-- The refusal of a journal that is not the one the caller knows, or nil: emptied, replaced or written by a newer server.
local function changed()
  if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then
    return redis.error_reply('CHANGED the journal is another one')
  end
end

-- Numbers rise for ever, also after everything was lost: they are never behind the milliseconds of Unix time.
local function next_number(field)
  local time = redis.call('TIME')
  local last = tonumber(redis.call('HGET', key('counters'), field) or '0')
  local number = text(math.max(last + 1, time[1] * 1000 + math.floor(time[2] / 1000)))
  redis.call('HSET', key('counters'), field, number)
  return number
end
