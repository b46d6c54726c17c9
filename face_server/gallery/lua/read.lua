-- ARGV: what to read, name of the collection, and what that needs. Returns 'ok', the model, the key after which templates
-- have crops, and rows.

local what, name = ARGV[1], ARGV[2]
local own
local read = {}

local function person_row(key)
  local value = read_person(own, key)
  return { key, value }
end

local function template_row(key, whole_record)
  local record, id, image, dimension = read_template(own, key)
  local _, _, owner = read_person(own, record:sub(9, 16))
  if not whole_record then
    return { key, record:sub(1, #record - 4 * dimension), owner }
  end
  return { key, record, owner, redis.call('HGET', own .. ':crops', key) }
end

local function page(index, start, after, limit, row)
  local rows = {}
  for place, key in ipairs(keys_after(own .. ':' .. index, start, after, tonumber(limit))) do
    rows[place] = row(key, true)
  end
  return rows
end

-- after, limit, digest of a name or nothing
function read.identities()
  local after, limit, digest = ARGV[3], ARGV[4], ARGV[5]
  return page(digest == '' and 'ids' or 'names', digest, after, limit, person_row)
end

function read.identity()
  local key = key_of(own .. ':ids', ARGV[3])
  if not key then
    refuse('identity', ARGV[3], name)
  end
  local value, count = read_person(own, key)
  local rows = { { key, value } }
  for place = 1, count do
    rows[place + 1] = template_row(value:sub(13 + 8 * place, 20 + 8 * place), false)
  end
  return rows
end

function read.records()
  return page('template-ids', '', ARGV[3], ARGV[4], template_row)
end

function read.record()
  local key = key_of(own .. ':template-ids', ARGV[3])
  if not key then
    refuse('template', ARGV[3], name)
  end
  return { template_row(key, true) }
end

function read.image()
  local keys, rows = redis.call('HGET', own .. ':images', ARGV[3]) or '', {}
  for place = 1, #keys, 8 do
    rows[#rows + 1] = template_row(keys:sub(place, place + 7), false)
  end
  return rows
end

return answer(function()
  check_state()
  local _
  _, own = collection_named(name)
  check_types(own)
  local settings = redis.call('HMGET', own, 'model', 'crops_after')
  return { 'ok', settings[1], settings[2], read[what]() }
end)
