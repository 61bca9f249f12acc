//! What the server has to do in one step, in Lua. Each script changes one key, so it runs in a
//! cluster too. They are sent whole (`EVAL`): a server that has just taken over knows no digest.

/// KEYS: session. ARGV: expected, generation, document, name, channel, how many replicas to wait for.
/// Where replicas are waited for, others are told only when these have it.
pub(super) const SAVE: &str = r"
local found = tonumber(redis.call('HGET', KEYS[1], 'g') or '0')
if found ~= tonumber(ARGV[1]) then return found end
redis.call('HSET', KEYS[1], 'g', ARGV[2], 'd', ARGV[3])
redis.call('PERSIST', KEYS[1])
if ARGV[6] == '0' then
  redis.call('HDEL', KEYS[1], 'w')
  redis.call('PUBLISH', ARGV[5], ARGV[2] .. ' ' .. ARGV[4])
else
  redis.call('HSET', KEYS[1], 'w', ARGV[2])
end
return -1";

/// KEYS: session. ARGV: generation. A write that comes after the session's, for `WAIT` to wait for;
/// none where the session has been confirmed meanwhile.
pub(super) const TOUCH: &str = r"
if redis.call('HGET', KEYS[1], 'w') == ARGV[1] then redis.call('HSET', KEYS[1], 'w', ARGV[1]) end
return 1";

/// KEYS: session. ARGV: generation, name, channel. The replicas have this generation.
pub(super) const CONFIRM: &str = r"
if redis.call('HGET', KEYS[1], 'w') ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], 'w')
redis.call('PUBLISH', ARGV[3], ARGV[1] .. ' ' .. ARGV[2])
return 1";

/// KEYS: session. ARGV: expected, generation, name, channel, milliseconds to keep the mark.
pub(super) const ERASE: &str = r"
local found = tonumber(redis.call('HGET', KEYS[1], 'g') or '0')
if found ~= tonumber(ARGV[1]) then return found end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'g', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('PUBLISH', ARGV[4], ARGV[2] .. ' ' .. ARGV[3])
return -1";

/// KEYS: lease. ARGV: owner, milliseconds. An answer that was lost is given again.
pub(super) const TAKE: &str = r"
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1";

/// KEYS: lease. ARGV: owner, milliseconds.
pub(super) const EXTEND: &str = r"
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0";

/// KEYS: lease. ARGV: owner.
pub(super) const RELEASE: &str = r"
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0";

/// KEYS: ledger. ARGV: what was read, what to write, milliseconds to keep it.
pub(super) const EXCHANGE: &str = r"
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1";

/// KEYS: enrolment. ARGV: document, name, channel. An empty document removes it.
pub(super) const ENROL: &str = r"
if ARGV[1] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[1]) end
redis.call('PUBLISH', ARGV[3], ARGV[2])
return 1";

/// KEYS: window, answered. ARGV: now or nothing, process, life, held, need, spare, milliseconds to hold;
/// limit, remaining, window, age, or nothing; number of the first, and ages, of answered requests.
/// Answers with places, limit or -1, window, and when to ask again or -1.
///
/// A request counts until a window after its answer (`answered`, by when that is), a place in
/// somebody's hands as long as they hold it. 10 ms are the grain of the clocks of those who measure
/// ages.
pub(super) const WINDOW: &str = r"
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local process, held, need, spare = ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local hold, told = tonumber(ARGV[7]), tonumber(ARGV[8])
local known = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do known[all[i]] = all[i + 1] end
local limit = told or tonumber(known.limit)
local window = tonumber(ARGV[10]) or tonumber(known.window) or 60000
local whole = window + 10
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - 5000)
-- The clock was set back: nothing is further ahead than a window.
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. (now + whole), '+inf')) do
  redis.call('ZADD', KEYS[2], now + whole, member)
end
local theirs, active = 0, 1
for name, value in pairs(known) do
  local other = string.match(name, '^held:(.*)')
  if other and other ~= process then
    local count, ends = string.match(value, '(%d+) (%d+)')
    count, ends = tonumber(count), tonumber(ends)
    if ends > now + hold then ends = now + hold end
    if ends <= now then
      for i = 1, count do
        redis.call('ZADD', KEYS[2], ends + whole, other .. ':' .. ends .. ':' .. i)
      end
      redis.call('HDEL', KEYS[1], name)
    else
      theirs, active = theirs + count, active + 1
    end
  end
end
for i = 13, #ARGV do
  local member = process .. ':' .. ARGV[3] .. ':' .. (tonumber(ARGV[12]) + i - 13)
  redis.call('ZADD', KEYS[2], now - tonumber(ARGV[i]) + whole, member)
end
if told then
  redis.call('HSET', KEYS[1], 'limit', told, 'window', window)
  local then_ = now - tonumber(ARGV[11])
  local ours = redis.call('ZCOUNT', KEYS[2], '(' .. then_, '+inf') + theirs + held
  local others = told - tonumber(ARGV[9]) - ours
  if told > 0 and others > 0 then
    redis.call('HSET', KEYS[1], 'others', others, 'until', now + whole)
    known.others, known['until'] = others, now + whole
  else
    redis.call('HDEL', KEYS[1], 'others', 'until')
    known.others = nil
  end
end
local others, others_end = tonumber(known.others or 0), tonumber(known['until'] or 0)
if others_end <= now or others_end > now + whole then others = 0 end
local used = redis.call('ZCOUNT', KEYS[2], '(' .. now, '+inf') + theirs + held
local places, opens = 0, -1
if not limit then
  if need > 0 and used == 0 then places = 1 end
elseif limit > 0 then
  local free = limit - used - others
  if free > 0 then
    places = math.min(need, math.ceil(free / active))
    local plenty = free - places - math.floor(limit / 2)
    -- None are spared while somebody waits.
    local short = now - tonumber(known.short or 0)
    if plenty > 0 and (short < 0 or short > 10000) then places = places + math.min(spare, plenty) end
  end
  if places < need then
    redis.call('HSET', KEYS[1], 'short', now)
    if free > places then
      opens = 0
    else
      local first = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
      if first[2] then opens = math.max(1, tonumber(first[2]) - now) end
      if others > 0 and (opens < 0 or others_end - now < opens) then opens = others_end - now end
    end
  end
end
redis.call('HSET', KEYS[1], 'held:' .. process, (held + places) .. ' ' .. (now + hold))
redis.call('PEXPIRE', KEYS[1], whole + 2 * hold)
redis.call('PEXPIRE', KEYS[2], whole + 2 * hold)
return { places, limit or -1, window, opens }";

/// KEYS: penalties. ARGV: whose, milliseconds, channel, process. The longest one stands.
pub(super) const SILENCE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local known = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '0')
if now + ARGV[2] > known then redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1]) end
redis.call('PEXPIRE', KEYS[1], 7200000)
redis.call('PUBLISH', ARGV[3], ARGV[4] .. ' ' .. ARGV[2] .. ' ' .. ARGV[1])
return 1";

/// KEYS: penalties. Whose, and how many milliseconds are left of it.
pub(super) const SILENCES: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'WITHSCORES')
local left = {}
for i = 1, #found, 2 do left[#left + 1] = { found[i], tonumber(found[i + 1]) - now } end
return left";

/// KEYS: replicas. ARGV: process, milliseconds after which the others count no more.
pub(super) const BEAT: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])";
