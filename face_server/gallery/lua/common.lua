-- What the scripts of the gallery share. KEYS[1] is the key of the state; all others lie beside it, in the same slot.
-- A script reads and checks everything first and writes only when nothing can be refused any more: Redis undoes nothing.

local prefix = KEYS[1]:sub(1, -6)

local function refuse(kind, first, second)
  error({ refused = { 'no', kind, first or '', second or '' } })
end

local function whole(number)
  return string.format('%.0f', number)
end

local function expect(key, kind)
  local found = redis.call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then
    refuse('foreign', key, found)
  end
end

-- The number under a name, and what its keys begin with.
local function collection_named(name)
  expect(prefix .. 'collections', 'hash')
  local number = redis.call('HGET', prefix .. 'collections', name)
  if not number then
    refuse('collection', name)
  end
  return number, prefix .. 'c:' .. number
end

local function check_types(own)
  expect(own, 'hash')
  for name, kind in pairs({ people = 'hash', templates = 'hash', crops = 'hash', images = 'hash',
                            ids = 'zset', names = 'zset', ['template-ids'] = 'zset' }) do
    expect(own .. ':' .. name, kind)
  end
end

-- Indexes of ids in their order: leaves of up to 64 members (id, zero byte, key), which Redis keeps as one compact piece
-- of memory each (32 bytes a member where one large sorted set takes 120), and a sorted set of the leaves by the first id
-- that belongs to each (id, zero byte, number of the leaf).
local most_in_leaf = 64

local function leaf_of(index, id)
  local entry = redis.call('ZREVRANGEBYLEX', index, '(' .. id .. '\1', '-', 'LIMIT', 0, 1)[1]
  return entry and index .. ':' .. entry:match('%z(%d+)$'), entry
end

-- The 8-byte key behind an id.
local function key_of(index, id)
  local leaf = leaf_of(index, id)
  local member = leaf and redis.call('ZRANGEBYLEX', leaf, '[' .. id .. '\0', '(' .. id .. '\1', 'LIMIT', 0, 1)[1]
  return member and member:sub(-8)
end

local function new_leaf(own, index, first)
  local number = redis.call('HINCRBY', own, 'leaves', 1)
  redis.call('ZADD', index, 0, first .. '\0' .. number)
  return index .. ':' .. number
end

local function add_to(own, index, id, key)
  local leaf = leaf_of(index, id) or new_leaf(own, index, '')
  local member = id .. '\0' .. key
  -- Before it grows beyond what Redis keeps compact: it would stay large for good.
  if redis.call('ZCARD', leaf) >= most_in_leaf then
    if member > redis.call('ZRANGE', leaf, -1, -1)[1] then
      -- Ids that rise, as most do, leave full leaves behind.
      leaf = new_leaf(own, index, id)
    else
      local moved = redis.call('ZRANGE', leaf, most_in_leaf / 2, -1)
      local target = new_leaf(own, index, moved[1]:sub(1, -10))
      for _, one in ipairs(moved) do
        redis.call('ZADD', target, 0, one)
      end
      redis.call('ZREMRANGEBYRANK', leaf, -#moved, -1)
      leaf = leaf_of(index, id)
    end
  end
  redis.call('ZADD', leaf, 0, member)
end

local function remove_from(index, id, key)
  local leaf, entry = leaf_of(index, id)
  redis.call('ZREM', leaf, id .. '\0' .. key)
  if redis.call('EXISTS', leaf) == 0 and entry:byte(1) ~= 0 then
    redis.call('ZREM', index, entry)
  end
end

-- Up to ``limit`` keys of ids above ``after``, of those that begin with ``start``.
local function keys_after(index, start, after, limit)
  local found = {}
  local _, from = leaf_of(index, start .. after)
  from = from and '[' .. from
  while from and #found < limit do
    local entries = redis.call('ZRANGEBYLEX', index, from, '+', 'LIMIT', 0, 64)
    for _, entry in ipairs(entries) do
      local leaf = index .. ':' .. entry:match('%z(%d+)$')
      local members = redis.call('ZRANGEBYLEX', leaf, '[' .. start .. after .. '\1', start == '' and '+' or '[' .. start .. '\255',
        'LIMIT', 0, limit - #found)
      for _, member in ipairs(members) do
        found[#found + 1] = member:sub(-8)
      end
      local past = start ~= '' and entry:sub(1, #start) > start
      if #found >= limit or past then
        return found
      end
    end
    from = #entries == 64 and '(' .. entries[64]
  end
  return found
end

-- created_at (8), digest of the name (8), n (4), n keys of templates (8 each), then id, name and metadata.
local function read_person(own, key)
  local value = redis.call('HGET', own .. ':people', key)
  if not value or #value < 21 then
    refuse('damaged', own .. ':people', key)
  end
  local count = struct.unpack('<I4', value, 17)
  local first = 21 + 8 * count
  local id_length = value:byte(first) or 0
  if #value < first + id_length + 2 then
    refuse('damaged', own .. ':people', key)
  end
  return value, count, value:sub(first + 1, first + id_length)
end

-- flags at byte 2, length of the id at 3, of the source at 5, dimension at 7, owner at 9, id from 45.
local function read_template(own, key)
  local record = redis.call('HGET', own .. ':templates', key)
  if not record or #record < 45 then
    refuse('damaged', own .. ':templates', key)
  end
  local flags, id_length = record:byte(2), record:byte(3)
  local source_length, dimension = struct.unpack('<I2I2', record, 5)
  local digest_at = 45 + id_length + source_length
  local digest = flags >= 2
  if #record ~= digest_at - 1 + (digest and 32 or 0) + 4 * dimension then
    refuse('damaged', own .. ':templates', key)
  end
  return record, record:sub(45, 44 + id_length), digest and record:sub(digest_at, digest_at + 7), dimension
end

-- Ends a script that writes: the revision and what it touched, for those who follow. Written first, so that a log
-- which cannot be written to leaves everything as it was.
local function begin_revision(token, log_length, number, people, templates)
  local head = redis.call('HMGET', KEYS[1], 'revision', 'token')
  local revision = whole(tonumber(head[1]) + 1)
  redis.call('XADD', prefix .. 'log', 'MAXLEN', '~', log_length, revision .. '-0',
    'a', head[2], 't', token, 'c', number, 'p', people, 'v', templates)
  redis.call('HSET', KEYS[1], 'revision', revision, 'token', token)
  return revision
end

-- Keys rise with the time, so that no key is used twice even where an older state of the store is restored.
local function key_maker()
  local time = redis.call('TIME')
  local last = math.max(tonumber(redis.call('HGET', KEYS[1], 'last')), time[1] * 1000000 + time[2])
  return function()
    last = last + 1
    return last
  end, function()
    redis.call('HSET', KEYS[1], 'last', whole(last))
  end
end

local function check_state()
  expect(KEYS[1], 'hash')
  expect(prefix .. 'log', 'stream')
  if redis.call('HLEN', KEYS[1]) < 4 then
    refuse('unclaimed')
  end
end

local function answer(main)
  local good, result = pcall(main)
  if good then
    return result
  end
  if type(result) == 'table' and result.refused then
    return result.refused
  end
  -- What a command of Redis said, without the place in the script.
  return { err = type(result) == 'table' and result.err or (tostring(result):gsub('^.-user_script:%s*%d+:%s*', '')) }
end
