package redisviews

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// A document is a hash: r its revision, d its body, p the record of its stream's
// parking ("" if it is known not to be parked), and t a token as long as nothing
// of it is trusted. A key without r is there for its p or its t only.
//
// A buyer's list is a sorted set of entries, all of score 0, so that they sort by
// their bytes: when the order was placed, then its id. What begins with "!" sorts
// before them and is no entry: !whole says that all of the buyer's orders are
// listed, !newest that all are from the last entry listed upwards, !t is a token
// with the time at which it was planted, in milliseconds.
//
// Every script keeps to the slot of its first key.
var (
	// KEYS document [list]; ARGV revision body repair token keep entry most.
	// Answers with the token if the document is not trusted, and whether its
	// parking is known.
	putScript = redis.NewScript(luaTouch + luaFile + `
local was = redis.call('HMGET', KEYS[1], 'r', 't')
local have, at, keep = tonumber(was[1]), tonumber(ARGV[1]), tonumber(ARGV[5])
local token = was[2]
if not have and not token then
	token = ARGV[4]
	redis.call('HSET', KEYS[1], 't', token)
end
if not have or at > have or (at == have and ARGV[3] == '1') then
	redis.call('HSET', KEYS[1], 'r', ARGV[1], 'd', ARGV[2])
	touch(KEYS[1], keep)
end
if KEYS[2] then file(KEYS[2], ARGV[6], tonumber(ARGV[7]), keep, ARGV[4]) end
if token then return {token, redis.call('HEXISTS', KEYS[1], 'p')} end
return {}`)

	// KEYS list; ARGV entry most keep token. For a list in another slot than its
	// document.
	fileScript = redis.NewScript(luaTouch + luaFile + `
file(KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4])
return 1`)

	// KEYS document; ARGV token brief. Answers with the token that stands. A key
	// that has nothing else does not stay long.
	plantScript = redis.NewScript(`
local has = redis.call('HMGET', KEYS[1], 't', 'r', 'p')
if has[1] then return has[1] end
redis.call('HSET', KEYS[1], 't', ARGV[1])
if not has[2] and not has[3] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return ARGV[1]`)

	// KEYS document [list]; ARGV token revision body parked entry most keep. The
	// list needs no token: that the order is in it is true at any time. A document
	// that the index does not have, at revision 0, is left as it stands.
	fillScript = redis.NewScript(luaTouch + luaFile + `
local keep = tonumber(ARGV[7])
if KEYS[2] then file(KEYS[2], ARGV[5], tonumber(ARGV[6]), keep, ARGV[1]) end
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then return 0 end
local have, at = tonumber(redis.call('HGET', KEYS[1], 'r')), tonumber(ARGV[2])
if at > 0 and (not have or at > have) then
	redis.call('HSET', KEYS[1], 'r', ARGV[2], 'd', ARGV[3])
	have = at
end
redis.call('HSETNX', KEYS[1], 'p', ARGV[4])
if have and at > 0 then
	redis.call('HDEL', KEYS[1], 't')
	touch(KEYS[1], keep)
elseif ARGV[4] ~= '' then
	touch(KEYS[1], keep)
end
return 1`)

	// KEYS document; ARGV token revision parked. A document is trusted that is as
	// new as the index's; parked is "?" if that was known.
	trustScript = redis.NewScript(`
local has = redis.call('HMGET', KEYS[1], 't', 'r')
if has[1] ~= ARGV[1] or not has[2] or tonumber(has[2]) < tonumber(ARGV[2]) then return 0 end
if ARGV[3] ~= '?' then redis.call('HSETNX', KEYS[1], 'p', ARGV[3]) end
redis.call('HDEL', KEYS[1], 't')
return 1`)

	// KEYS list; ARGV from count token brief. Answers with entries and a mark: 2 or 1
	// if the list is whole or has the newest, else 0 and a token.
	listScript = redis.NewScript(luaPlant + `
local mark, stands = 0, ''
if redis.call('ZSCORE', KEYS[1], '!newest') then mark = 1 end
if redis.call('ZSCORE', KEYS[1], '!whole') then mark = 2 end
if mark == 0 and ARGV[3] ~= '' then
	stands = redis.call('ZRANGEBYLEX', KEYS[1], '[!t', '(!u')[1]
	if not stands then stands = plant(KEYS[1], ARGV[3]) end
	if redis.call('ZCARD', KEYS[1]) == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
end
return {mark, stands, redis.call('ZREVRANGEBYLEX', KEYS[1], ARGV[1], '[0', 'LIMIT', 0, ARGV[2])}`)

	// KEYS list; ARGV token lag more most keep entries… The token must be as old as
	// what the index's lists may lack. What is older than the oldest given goes if
	// there is more in between.
	markScript = redis.NewScript(luaNow + luaTouch + luaCut + `
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
if now() - tonumber(string.match(ARGV[1], '^!t(%d+)')) < tonumber(ARGV[2]) then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
for i = 6, #ARGV do redis.call('ZADD', KEYS[1], 0, ARGV[i]) end
local mark = '!whole'
if ARGV[3] == '1' then
	mark = '!newest'
	redis.call('ZREMRANGEBYLEX', KEYS[1], '[0', '(' .. ARGV[#ARGV])
end
redis.call('ZADD', KEYS[1], 0, mark)
cut(KEYS[1], tonumber(ARGV[4]))
touch(KEYS[1], tonumber(ARGV[5]))
return 1`)

	// KEYS document; ARGV revision count dropped rest keep. A record is its revision,
	// its count and its halves. It is as projections.Parked.Supersedes and Onto say.
	parkScript = redis.NewScript(luaTouch + `
local was, dropped = redis.call('HGET', KEYS[1], 'p'), ARGV[3]
local at, count, gone = string.match(was or '', '^(%d+) (%d+) (!?)')
if at == ARGV[1] then
	if tonumber(ARGV[2]) <= tonumber(count) and (dropped == '' or gone == '!') then return 0 end
	if dropped == '' and gone == '!' then dropped = string.match(was, '^%d+ %d+ (![^\n]*\n)') end
end
redis.call('HSET', KEYS[1], 'p', ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. dropped .. ARGV[4])
touch(KEYS[1], tonumber(ARGV[5]))
return 1`)

	// KEYS document; ARGV brief. It is known not to be parked, so that no answer of
	// the index that is still on its way parks it again.
	unparkScript = redis.NewScript(`
redis.call('HSET', KEYS[1], 'p', '')
if redis.call('HEXISTS', KEYS[1], 'r') == 0 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return 1`)

	// KEYS lineage writers sweep; ARGV writer lateness. Signs the register, and
	// answers with the lineage, what is to be swept and who is late.
	askScript = redis.NewScript(luaNow + `
local time = now()
if ARGV[1] ~= '' then redis.call('ZADD', KEYS[2], string.format('%.0f', time), ARGV[1]) end
local late = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('(%.0f', time - tonumber(ARGV[2])))
return {redis.call('GET', KEYS[1]) or '', redis.call('GET', KEYS[3]) or '0', late}`)

	// KEYS lineage writers sweep; ARGV old new sweep buried… Changes the lineage if
	// it is still the old one.
	changeScript = redis.NewScript(`
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
if ARGV[3] == '1' then redis.call('INCR', KEYS[3]) end
for i = 4, #ARGV do redis.call('ZREM', KEYS[2], ARGV[i]) end
return 1`)

	// KEYS key; ARGV value. Deletes a key that still says what it said.
	deleteIfScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])`)
)

// In pieces, as more than one script needs them.
const (
	luaTouch = `
local function touch(key, keep)
	if keep > 0 then redis.call('PEXPIRE', key, keep) else redis.call('PERSIST', key) end
end`

	luaCut = `
local function cut(list, most)
	local n = redis.call('ZLEXCOUNT', list, '[0', '+')
	if n <= most then return end
	for _, entry in ipairs(redis.call('ZRANGEBYLEX', list, '[0', '+', 'LIMIT', 0, n - most)) do
		redis.call('ZREM', list, entry)
	end
	if redis.call('ZREM', list, '!whole') == 1 then redis.call('ZADD', list, 0, '!newest') end
end`

	luaNow = `
local function now()
	local time = redis.call('TIME')
	return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end`

	luaPlant = luaNow + `
local function plant(list, token)
	local planted = string.format('!t%.0f.', now()) .. token
	redis.call('ZADD', list, 0, planted)
	return planted
end`

	// A list that begins has a token at once, so that it is old by the time that
	// somebody reads it.
	luaFile = luaPlant + luaCut + `
local function file(list, entry, most, keep, token)
	if redis.call('ZADD', list, 0, entry) == 1 then
		if redis.call('ZCARD', list) == 1 then plant(list, token) end
		cut(list, most)
	end
	touch(list, keep)
end`
)

// loadScripts brings the scripts of pipelines to every server.
func loadScripts(ctx context.Context, client redis.UniversalClient) error {
	load := func(ctx context.Context, c redis.Scripter) error {
		for _, script := range []*redis.Script{
			putScript, fileScript, plantScript, fillScript, trustScript, listScript, markScript, parkScript, unparkScript,
		} {
			if err := script.Load(ctx, c).Err(); err != nil {
				return fmt.Errorf("load a script: %w", err)
			}
		}
		return nil
	}
	return everywhere(ctx, client, func(ctx context.Context, c *redis.Client) error { return load(ctx, c) })
}

// everywhere does something with each server that takes writes, in a cluster
// with several at once.
func everywhere(ctx context.Context, client redis.UniversalClient, do func(context.Context, *redis.Client) error) error {
	switch c := client.(type) {
	case *redis.ClusterClient:
		return c.ForEachMaster(ctx, do)
	case *redis.Client:
		return do(ctx, c)
	}
	return fmt.Errorf("a client of type %T", client)
}
