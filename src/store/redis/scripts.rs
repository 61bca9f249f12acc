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
