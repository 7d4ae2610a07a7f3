-- Takes in revocations. Those of the same become one; of a revocation and its taking back the later holds.
-- KEYS: 1 hash id → revocation in JSON, 2 zset id → number of its last change, 3 zset id → end in unix ms,
--       4 hash of epoch and last (number)
-- ARGV: 1 an epoch, for a list that has none, then id and revocation in JSON of each
-- reply: how many changed something
redis.call('HSETNX', KEYS[4], 'epoch', ARGV[1])
local changed = 0
for i = 2, #ARGV, 2 do
	local id, json = ARGV[i], ARGV[i + 1]
	local new, raw, write = cjson.decode(json), redis.call('HGET', KEYS[1], id), true
	if raw then
		local old = cjson.decode(raw)
		if old.undone == new.undone then
			write = new.before > old.before or new.expires > old.expires
			new.at = math.max(new.at, old.at)
			new.before = math.max(new.before, old.before)
			new.expires = math.max(new.expires, old.expires)
			json = cjson.encode(new)
		else
			write = new.at > old.at
		end
	end
	if write then
		changed = changed + 1
		redis.call('HSET', KEYS[1], id, json)
		redis.call('ZADD', KEYS[2], redis.call('HINCRBY', KEYS[4], 'last', 1), id)
		redis.call('ZADD', KEYS[3], new.expires, id)
	end
end
return changed
