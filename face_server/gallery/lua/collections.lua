-- ARGV: what ("claim", "create", "update", "drop"), token, length of the log, name, then fields and values, or how many there may be.
-- Returns 'ok' and the revision that has it.

local what, token, log_length, name = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local make = {}

local function fields(first)
  local chosen = {}
  for place = first, #ARGV do
    chosen[#chosen + 1] = ARGV[place]
  end
  return unpack(chosen)
end

-- A store that holds nothing yet, or nothing any more, begins a history of its own.
function make.claim()
  expect(KEYS[1], 'hash')
  expect(prefix .. 'log', 'stream')
  expect(prefix .. 'collections', 'hash')
  if redis.call('EXISTS', KEYS[1]) == 0 then
    if redis.call('EXISTS', prefix .. 'collections', prefix .. 'log') > 0 then
      refuse('damaged', KEYS[1], 'state')
    end
    redis.call('HSET', KEYS[1], 'epoch', token, 'revision', '0', 'token', token, 'last', '0')
  end
  return { 'ok', redis.call('HGET', KEYS[1], 'revision') }
end

function make.create()
  check_state()
  expect(prefix .. 'collections', 'hash')
  if redis.call('HEXISTS', prefix .. 'collections', name) == 1 then
    refuse('collection-taken', name)
  end
  if redis.call('HLEN', prefix .. 'collections') >= tonumber(ARGV[5]) then
    refuse('collections', ARGV[5])
  end
  local fresh, keep_last = key_maker()
  local number = whole(fresh())
  local own = prefix .. 'c:' .. number
  check_types(own)
  local revision = begin_revision(token, log_length, number, '', '')
  keep_last()
  redis.call('HSET', prefix .. 'collections', name, number)
  redis.call('HSET', own, 'crops_after', '0', 'identities', '0', 'templates', '0', fields(6))
  return { 'ok', revision }
end

function make.update()
  check_state()
  local number, own = collection_named(name)
  check_types(own)
  local stored = redis.call('HMGET', own, 'model', 'keep_crops')
  if stored[1] ~= ARGV[5] then
    refuse('model', stored[1] or '')
  end
  local fresh, keep_last = key_maker()
  local now = whole(fresh())
  local revision = begin_revision(token, log_length, number, '', '')
  keep_last()
  redis.call('HSET', own, fields(6))
  if stored[2] == '1' and redis.call('HGET', own, 'keep_crops') ~= '1' then
    redis.call('UNLINK', own .. ':crops')
    redis.call('HSET', own, 'crops_after', now)
  end
  return { 'ok', revision }
end

function make.drop()
  check_state()
  local number, own = collection_named(name)
  check_types(own)
  local revision = begin_revision(token, log_length, number, '', '')
  redis.call('HDEL', prefix .. 'collections', name)
  for _, index in ipairs({ ':ids', ':names', ':template-ids' }) do
    for _, entry in ipairs(redis.call('ZRANGE', own .. index, 0, -1)) do
      redis.call('UNLINK', own .. index .. ':' .. entry:match('%z(%d+)$'))
    end
    redis.call('UNLINK', own .. index)
  end
  redis.call('UNLINK', own, own .. ':people', own .. ':templates', own .. ':crops', own .. ':images')
  return { 'ok', revision }
end

return answer(make[what])
