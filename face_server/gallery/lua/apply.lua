-- ARGV: token, length of the log, name of the collection, its model, templates an identity may have, then changes:
--   put ID NAME-DIGEST CREATED-AT REST | add TEMPLATE-ID IDENTITY-ID DIGEST RECORD CROP | erase ID | remove TEMPLATE-ID
--   move TEMPLATE-ID IDENTITY-ID | merge SOURCE-ID TARGET-ID
-- Returns 'ok' and the revision that has them.

local token, log_length, name, model, most = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local position = 6
local number, own, keeps_crops

local people, people_by_key, templates, templates_by_key = {}, {}, {}, {}
local changed_people, changed_templates, images = {}, {}, {}
local fresh, keep_last

local function take()
  position = position + 1
  return ARGV[position - 1]
end

local function touch(person)
  if not person.touched then
    person.touched = true
    changed_people[#changed_people + 1] = person
  end
end

local function person_with_key(key)
  if not people_by_key[key] then
    local value, count, id = read_person(own, key)
    local keys = {}
    for place = 1, count do
      keys[place] = value:sub(13 + 8 * place, 20 + 8 * place)
    end
    local name_digest = value:sub(9, 16)
    people_by_key[key] = { key = key, id = id, created = value:sub(1, 8), name = name_digest, stored_name = name_digest,
                           rest = value:sub(21 + 8 * count), keys = keys }
    people[id] = people_by_key[key]
  end
  return people_by_key[key]
end

local function find_person(id)
  if people[id] == nil then
    local key = key_of(own .. ':ids', id)
    people[id] = key and person_with_key(key) or false
  end
  return people[id]
end

local function person(id)
  return find_person(id) or refuse('identity', id, name)
end

local function template_with_key(key)
  if not templates_by_key[key] then
    local record, id, image = read_template(own, key)
    templates_by_key[key] = { key = key, id = id, record = record, image = image, stored = true, person = person_with_key(record:sub(9, 16)) }
    templates[id] = templates_by_key[key]
  end
  return templates_by_key[key]
end

local function find_template(id)
  if templates[id] == nil then
    local key = key_of(own .. ':template-ids', id)
    templates[id] = key and template_with_key(key) or false
  end
  return templates[id]
end

local function touch_template(template)
  if not template.touched then
    template.touched = true
    changed_templates[#changed_templates + 1] = template
  end
end

local function grow(who, by)
  if #who.keys + by > most then
    refuse('full', ARGV[5], whole(#who.keys + by))
  end
  touch(who)
end

local function take_from(who, key)
  for place, one in ipairs(who.keys) do
    if one == key then
      table.remove(who.keys, place)
      touch(who)
      return
    end
  end
  refuse('damaged', own .. ':people', who.key)
end

local function images_of(digest)
  if not images[digest] then
    images[digest] = redis.call('HGET', own .. ':images', digest) or ''
  end
  return images[digest]
end

local function forget_image(template)
  if not template.image then
    return
  end
  local kept, all = {}, images_of(template.image)
  for place = 1, #all, 8 do
    local key = all:sub(place, place + 7)
    if key ~= template.key then
      kept[#kept + 1] = key
    end
  end
  images[template.image] = table.concat(kept)
end

local function erase_template(template)
  template.gone = true
  templates[template.id] = false
  touch_template(template)
  forget_image(template)
end

local make = {}

function make.put()
  local id, name_digest, created, rest = take(), take(), take(), take()
  local known = find_person(id)
  if not known then
    known = { key = struct.pack('<i8', fresh()), id = id, created = created, keys = {} }
    people[id], people_by_key[known.key] = known, known
  end
  known.name, known.rest = name_digest, rest
  -- What will be written to is read now, so that a foreign value there is met before anything is written.
  key_of(own .. ':names', name_digest .. id)
  touch(known)
end

function make.add()
  local id, identity, digest, record, crop = take(), take(), take(), take(), take()
  local who = person(identity)
  if find_template(id) then
    refuse('taken', id, name)
  end
  grow(who, 1)
  if crop ~= '' and not keeps_crops then
    crop = ''
    record = record:sub(1, 1) .. string.char(record:byte(2) - 1) .. record:sub(3)
  end
  local template = { key = struct.pack('<i8', fresh()), id = id, record = record, person = who, crop = crop, image = digest ~= '' and digest }
  templates[id], templates_by_key[template.key] = template, template
  who.keys[#who.keys + 1] = template.key
  touch_template(template)
  if template.image then
    images[digest] = images_of(digest) .. template.key
  end
end

function make.erase()
  local who = person(take())
  for _, key in ipairs(who.keys) do
    erase_template(template_with_key(key))
  end
  who.keys, who.gone, people[who.id] = {}, true, false
  touch(who)
end

function make.remove()
  local id = take()
  local template = find_template(id) or refuse('template', id, name)
  take_from(template.person, template.key)
  erase_template(template)
end

function make.move()
  local id, identity = take(), take()
  local template = find_template(id) or refuse('template', id, name)
  local target = person(identity)
  if template.person == target then
    return
  end
  take_from(template.person, template.key)
  grow(target, 1)
  target.keys[#target.keys + 1] = template.key
  template.person = target
  touch_template(template)
end

function make.merge()
  local source_id, target_id = take(), take()
  if source_id == target_id then
    refuse('itself')
  end
  local source, target = person(source_id), person(target_id)
  grow(target, #source.keys)
  for _, key in ipairs(source.keys) do
    local template = template_with_key(key)
    target.keys[#target.keys + 1] = key
    template.person = target
    touch_template(template)
  end
  source.keys, source.gone, people[source.id] = {}, true, false
  touch(source)
end

local function write_person(who)
  if who.stored_name and (who.gone or who.name ~= who.stored_name) then
    remove_from(own .. ':names', who.stored_name .. who.id, who.key)
  end
  if who.gone then
    if who.stored_name then
      redis.call('HDEL', own .. ':people', who.key)
      remove_from(own .. ':ids', who.id, who.key)
    end
    return who.stored_name and -1 or 0
  end
  redis.call('HSET', own .. ':people', who.key,
    who.created .. who.name .. struct.pack('<I4', #who.keys) .. table.concat(who.keys) .. who.rest)
  if who.name ~= who.stored_name then
    add_to(own, own .. ':names', who.name .. who.id, who.key)
  end
  if not who.stored_name then
    add_to(own, own .. ':ids', who.id, who.key)
  end
  return who.stored_name and 0 or 1
end

local function write_template(template)
  if template.gone then
    if template.stored then
      redis.call('HDEL', own .. ':templates', template.key)
      redis.call('HDEL', own .. ':crops', template.key)
      remove_from(own .. ':template-ids', template.id, template.key)
    end
    return template.stored and -1 or 0
  end
  local record = template.record
  redis.call('HSET', own .. ':templates', template.key, record:sub(1, 8) .. template.person.key .. record:sub(17))
  if template.stored then
    return 0
  end
  add_to(own, own .. ':template-ids', template.id, template.key)
  if template.crop ~= '' then
    redis.call('HSET', own .. ':crops', template.key, template.crop)
  end
  return 1
end

local function write()
  local touched, added, identities, count = {}, {}, 0, 0
  for place, who in ipairs(changed_people) do
    touched[place] = who.key
  end
  for _, template in ipairs(changed_templates) do
    if not template.gone and not template.stored then
      added[#added + 1] = template.key
    end
  end
  local revision = begin_revision(token, log_length, number, table.concat(touched), table.concat(added))
  keep_last()
  for _, who in ipairs(changed_people) do
    identities = identities + write_person(who)
  end
  for _, template in ipairs(changed_templates) do
    count = count + write_template(template)
  end
  for digest, keys in pairs(images) do
    if keys == '' then
      redis.call('HDEL', own .. ':images', digest)
    else
      redis.call('HSET', own .. ':images', digest, keys)
    end
  end
  redis.call('HINCRBY', own, 'identities', identities)
  redis.call('HINCRBY', own, 'templates', count)
  return { 'ok', revision }
end

return answer(function()
  check_state()
  number, own = collection_named(name)
  check_types(own)
  local settings = redis.call('HMGET', own, 'model', 'keep_crops')
  if settings[1] ~= model then
    refuse('model', settings[1] or '')
  end
  keeps_crops = settings[2] == '1'
  fresh, keep_last = key_maker()
  while position <= #ARGV do
    make[take()]()
  end
  if #changed_people == 0 then
    return { 'ok', redis.call('HGET', KEYS[1], 'revision') }
  end
  return write()
end)
