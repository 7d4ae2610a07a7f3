-- Reads the revocations that changed since a number, and drops some that have ended.
-- KEYS: as in revocations_put.lua
-- ARGV: 1 the epoch known, 2 the number read last, 3 now in unix ms, 4 how many to read
-- reply: epoch, number read last, 1 if there is more, 1 if it was read from its beginning, then each revocation
--        in JSON. That is so for an epoch other than the known one, and a list that is shorter than it was.
if redis.call('HLEN', KEYS[1]) ~= redis.call('ZCARD', KEYS[2]) then
	redis.call('DEL', unpack(KEYS)) -- Redis has evicted a part: all is written anew
end
local ended = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', ARGV[3], 'LIMIT', 0, 1000)
if #ended > 0 then
	redis.call('HDEL', KEYS[1], unpack(ended))
	redis.call('ZREM', KEYS[2], unpack(ended))
	redis.call('ZREM', KEYS[3], unpack(ended))
end
local epoch = redis.call('HGET', KEYS[4], 'epoch') or ''
local last = tonumber(redis.call('HGET', KEYS[4], 'last') or '0')
local from, anew = tonumber(ARGV[2]), '0'
if epoch ~= ARGV[1] or last < from then
	from, anew = 0, '1'
end
local ids = redis.call('ZRANGEBYSCORE', KEYS[2], string.format('(%.0f', from), '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[4])
local reply = {epoch, string.format('%.0f', from), #ids / 2 == tonumber(ARGV[4]) and '1' or '0', anew}
for i = 1, #ids, 2 do
	reply[#reply + 1] = redis.call('HGET', KEYS[1], ids[i]) or nil
	reply[2] = ids[i + 1]
end
return reply
