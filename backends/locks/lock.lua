-- One step on the locks of one shard, by the clock of this server. Nothing of it has a time to live
-- in Redis: a server that may evict keys with one must not evict a lock.
--
-- KEYS[1]  hash    the locks: name -> "OWNER FENCE END"; OWNER is hexadecimal, END in unix ms, from then on it is free
-- KEYS[2]  zset    the same names by fence
-- KEYS[3]  string  the last fence that was given out
-- ARGV     acquire NAME OWNER TTL | renew NAME OWNER TTL | release NAME OWNER | get NAME
--          list AFTER LIMIT | prune AFTER LIMIT        (TTL in ms; AFTER is a fence)
--          and "again" at the end where the answer to the same step did not come: it may be done already
-- Returns  acquire to get: {"ok" | "held" | "free", FENCE, END}; the lock as it is now, or the other's
--          list and prune: {LAST, NAME, FENCE, END, ...}; LAST is the fence to go on after, "" at the end
--
-- A fence is the last one and 1, but not less than the clock in microseconds. So it grows also where
-- Redis has lost the last one.
local time = redis.call('TIME')
local micros = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = math.floor(micros / 1000)

local function whole(n) return string.format('%.0f', n) end

local function parse(record)
	if not record then return nil end
	local owner, fence, ends = string.match(record, '^(%x+) (%d+) (%d+)$')
	if not owner or tonumber(ends) <= now then return nil end
	return owner, fence, ends
end

local verb = ARGV[1]

if verb == 'list' or verb == 'prune' then
	local names = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[2], '+inf', 'LIMIT', 0, ARGV[3])
	if #names == 0 then return {''} end
	local last = ''
	if #names == tonumber(ARGV[3]) then last = whole(redis.call('ZSCORE', KEYS[2], names[#names])) end
	local reply = {last}
	local records = redis.call('HMGET', KEYS[1], unpack(names))
	for i, name in ipairs(names) do
		local owner, fence, ends = parse(records[i])
		if verb == 'prune' and not owner then
			redis.call('HDEL', KEYS[1], name)
			redis.call('ZREM', KEYS[2], name)
		elseif verb == 'list' and owner then
			reply[#reply + 1] = name
			reply[#reply + 1] = fence
			reply[#reply + 1] = ends
		end
	end
	return reply
end

local name = ARGV[2]
local owner, fence, ends = parse(redis.call('HGET', KEYS[1], name))

if verb == 'get' then
	if not owner then return {'free', '0', '0'} end
	return {'ok', fence, ends}
end

if verb == 'acquire' then
	if owner and owner == ARGV[3] and ARGV[5] == 'again' then return {'ok', fence, ends} end
	if owner then return {'held', fence, ends} end
	fence = whole(math.max(tonumber(redis.call('GET', KEYS[3]) or '0') + 1, micros))
	ends = whole(now + tonumber(ARGV[4]))
	redis.call('SET', KEYS[3], fence)
	redis.call('HSET', KEYS[1], name, ARGV[3] .. ' ' .. fence .. ' ' .. ends)
	redis.call('ZADD', KEYS[2], fence, name)
	return {'ok', fence, ends}
end

if not owner and verb == 'release' and ARGV[4] == 'again' then return {'ok', '0', '0'} end
if not owner then return {'free', '0', '0'} end
if owner ~= ARGV[3] then return {'held', fence, ends} end

if verb == 'renew' then
	ends = whole(now + tonumber(ARGV[4]))
	redis.call('HSET', KEYS[1], name, owner .. ' ' .. fence .. ' ' .. ends)
else
	redis.call('HDEL', KEYS[1], name)
	redis.call('ZREM', KEYS[2], name)
end
return {'ok', fence, ends}
