-- Erase dead letters. ARGV: journal, then the ids. Returns how many there were.
local refusal = changed()
if refusal then
  return refusal
end
local erased = 0
for place = 2, #ARGV do
  erased = erased + erase_letter(ARGV[place])
end
return erased
