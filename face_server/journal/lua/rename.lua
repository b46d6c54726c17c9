-- Note what to rename among the events until now. ARGV: journal, record. Returns the key of the note and the last cursor.
local refusal = changed()
if refusal then
  return refusal
end
local last, note = redis.call('HGET', key('counters'), 'cursor') or '0', cjson.decode(ARGV[2])
note.last = tonumber(last)
local number = next_number('rename')
redis.call('HSET', key('renames'), number, cjson.encode(note))
return { number, last }
