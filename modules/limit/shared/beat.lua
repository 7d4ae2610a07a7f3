-- Writes one instance among the live ones and counts them, by the server's clock. Portable as take.lua.
--
-- KEYS[1]  a sorted set: instances by the time in ms at which they were last heard of
-- ARGV[1]  the instance
-- ARGV[2]  how long one counts after that, in ms
-- Reply    how many are live
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local span = tonumber(ARGV[2])
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - span))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', 10 * span))
return redis.call('ZCARD', KEYS[1])
