-- SHA-256 (FIPS 180-4) of short texts: Envoy's Lua has no digest of its own. `bit` is LuaJIT's.

local band, bxor, bnot = bit.band, bit.bxor, bit.bnot
local rshift, ror, tobit = bit.rshift, bit.ror, bit.tobit

-- The first 32 bits of the fractional parts of the roots of the first primes: square roots for the initial state, cube
-- roots for the rounds.
local INITIAL, ROUNDS = {}, {}
do
  local function fraction(value) return tobit(math.floor((value - math.floor(value)) * 2 ^ 32)) end
  local candidate = 2
  while #ROUNDS < 64 do
    local prime = true
    for divisor = 2, math.floor(math.sqrt(candidate)) do
      if candidate % divisor == 0 then prime = false end
    end
    if prime then
      if #INITIAL < 8 then INITIAL[#INITIAL + 1] = fraction(math.sqrt(candidate)) end
      ROUNDS[#ROUNDS + 1] = fraction(candidate ^ (1 / 3))
    end
    candidate = candidate + 1
  end
end

local function big_endian(number)
  local bytes = {}
  for place = 8, 1, -1 do
    bytes[place] = string.char(number % 256)
    number = math.floor(number / 256)
  end
  return table.concat(bytes)
end

local function padded(text)
  return text .. "\128" .. ("\0"):rep((55 - #text) % 64) .. big_endian(#text * 8)
end

local function schedule(block)
  local words = {}
  for index = 1, 16 do
    local a, b, c, d = block:byte(index * 4 - 3, index * 4)
    words[index] = tobit(((a * 256 + b) * 256 + c) * 256 + d)
  end
  for index = 17, 64 do
    local x, y = words[index - 15], words[index - 2]
    local low = bxor(ror(x, 7), ror(x, 18), rshift(x, 3))
    local high = bxor(ror(y, 17), ror(y, 19), rshift(y, 10))
    words[index] = tobit(words[index - 16] + low + words[index - 7] + high)
  end
  return words
end

local function compress(state, block)
  local words = schedule(block)
  local a, b, c, d, e, f, g, h = unpack(state)
  for round = 1, 64 do
    local choice = bxor(band(e, f), band(bnot(e), g))
    local first = h + bxor(ror(e, 6), ror(e, 11), ror(e, 25)) + choice + ROUNDS[round] + words[round]
    local majority = bxor(band(a, b), band(a, c), band(b, c))
    local second = bxor(ror(a, 2), ror(a, 13), ror(a, 22)) + majority
    h, g, f, e, d, c, b, a = g, f, e, tobit(d + first), c, b, a, tobit(first + second)
  end
  local sums = { a, b, c, d, e, f, g, h }
  for index = 1, 8 do sums[index] = tobit(state[index] + sums[index]) end
  return sums
end

-- 64 lower-case hexadecimal digits.
function sha256(text)
  local message, state = padded(text), INITIAL
  for start = 1, #message, 64 do state = compress(state, message:sub(start, start + 63)) end
  local digits = {}
  for index, word in ipairs(state) do digits[index] = bit.tohex(word) end
  return table.concat(digits)
end
