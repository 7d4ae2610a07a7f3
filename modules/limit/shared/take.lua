-- Decides about one request and charges it: every policy is checked before any is charged. It is the
-- arithmetic of modules/limit/policy, in whole numbers that a double counts exactly, and portable
-- Lua: Redis 6 and later, Valkey, Dragonfly. One key, so one slot.
--
-- KEYS[1]  the key's state
-- ARGV[1]  the time in µs since the Unix epoch, in tests; "" for the server's own
-- ARGV[2]  "take": only if there is room; "charge": in any case
-- ARGV[3]  the cost: units that must be had. take: 0 or more, 0 writes nothing; charge: negative gives back
-- ARGV[4]  take: the units that are taken if there is room for so many, at least the cost
-- ARGV[5…] three for each policy: "n", interval in ns, size | "u", interval in µs, size | "w", window in ms, quota
-- Reply    "granted now word …": the units taken, 0 for none; the time in µs; the state before them, brought
--          to that time: a bucket's backlog in its unit, a window's index:previous:current
-- State    "last word …": the time in µs of the last charge; a bucket's backlog then and its unit
--          (12n, 12u), a window's index:previous:current. It expires when there is nothing to remember.
local format, match, floor, ceil, min, max = string.format, string.match, math.floor, math.ceil, math.min, math.max
local now
if ARGV[1] == '' then
  local t = redis.call('TIME')
  now = tonumber(t[1]) * 1000000 + tonumber(t[2])
else
  now = tonumber(ARGV[1])
end
local cost, granted = tonumber(ARGV[3]), tonumber(ARGV[4])

local value = redis.call('GET', KEYS[1])
local last, rest = now, ''
if value then
  local at
  at, rest = match(value, '^(%d+) ?(.*)$')
  last, rest = tonumber(at) or now, rest or ''
end

local ms = floor(now / 1000)
local words, reply = {}, '' -- of each policy the backlog, or index, previous and current
for i = 5, #ARGV, 3 do
  local kind, span, size = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local left
  if kind == 'w' then
    local at, before, within, others = match(rest, '^(%d+):(%d+):(%d+) ?(.*)$')
    local index, elapsed, previous, current = floor(ms / span), ms % span, 0, 0
    if at then
      at, before, within = tonumber(at), tonumber(before), tonumber(within)
      if at > index then -- the clock went back
        index, elapsed, previous, current = at, 0, before, within
      elseif at == index then
        previous, current = before, within
      elseif at == index - 1 then
        previous = within
      end
    end
    rest = others or match(rest, '^%S* ?(.*)$')
    words[i], words[i + 1], words[i + 2] = index, previous, current
    left = floor(((size - current) * span - previous * (span - elapsed)) / span)
    reply = format('%s %.0f:%.0f:%.0f', reply, index, previous, current)
  else
    local room = span * size
    local backlog, unit, others = match(rest, '^(%d+)([nu]) ?(.*)$')
    rest = others or match(rest, '^%S* ?(.*)$')
    if backlog then
      local passed = now - last
      backlog = tonumber(backlog)
      if kind == 'n' then
        passed = passed * 1000
        if unit == 'u' then
          backlog = backlog * 1000
        end
      elseif unit == 'n' then
        backlog = ceil(backlog / 1000)
      end
      backlog = min(max(0, backlog - passed), 2 * room)
    else
      backlog = 0
    end
    words[i] = backlog
    left = floor((room - backlog) / span)
    reply = format('%s %.0f', reply, backlog)
  end
  granted = min(granted, left)
end

if ARGV[2] == 'charge' then
  granted = cost
elseif granted < cost then
  granted = 0
end
reply = format('%.0f %.0f%s', granted, now, reply)
if granted == 0 then
  return reply
end

local state, ttl = format('%.0f', now), 0
for i = 5, #ARGV, 3 do
  local kind, span, size = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  if kind == 'w' then
    local index, previous, current = words[i], words[i + 1], min(words[i + 2] + granted, 2 * size)
    if current < 0 then -- given back in the window after that in which it was taken
      previous = max(0, previous + current)
      current = 0
    end
    -- Counted from the window of the index: the clock may have gone back.
    if current > 0 then
      ttl = max(ttl, (index + 2) * span - ms)
    elseif previous > 0 then
      ttl = max(ttl, (index + 1) * span - ms)
    end
    state = format('%s %.0f:%.0f:%.0f', state, index, previous, current)
  else
    local backlog = words[i] + max(-size, min(granted, size)) * span
    backlog = min(max(0, backlog), 2 * span * size)
    if kind == 'n' then
      ttl = max(ttl, ceil(backlog / 1000000))
    else
      ttl = max(ttl, ceil(backlog / 1000))
    end
    state = format('%s %.0f%s', state, backlog, kind)
  end
end
if ttl > 0 then
  -- One more, because the server's clock for expiry is a whole millisecond that has begun.
  redis.call('SET', KEYS[1], state, 'PX', format('%.0f', ttl + 1))
elseif value then
  redis.call('DEL', KEYS[1])
end
return reply
