/** A bucket that holds `capacity` tokens when nobody has taken any, and gets `perSecond` new ones evenly. */
export interface Bucket {
  readonly capacity: number;
  readonly perSecond: number;
}

/** What came of taking tokens. */
export interface Taken {
  readonly allowed: boolean;
  /** Whole tokens that are left. */
  readonly remaining: number;
  /** Whole seconds until as many tokens as were wanted are there; 0 when they were. */
  readonly retryAfterSeconds: number;
}

/** Tokens as of a time, in milliseconds of any clock. Negative: a debt. */
export interface Level {
  tokens: number;
  at: number;
}

/**
 * Takes `count` tokens from `level`, in place, if they are there, or in any case when `forced`. Never more than
 * capacity + perSecond * time come out of a bucket by asking; force may take it into a debt of one capacity.
 */
export function takeFrom(level: Level, bucket: Bucket, count: number, forced: boolean, now: number): boolean {
  const { capacity, perSecond } = bucket;
  // A clock that went back gives nothing and takes nothing.
  const tokens = Math.min(capacity, level.tokens + Math.max(0, now - level.at) * (perSecond / 1000));
  const allowed = forced || tokens >= count;
  if (!allowed) return false;
  level.tokens = Math.max(-capacity, Math.min(capacity, tokens - count));
  level.at = Math.max(level.at, now);
  return true;
}

/** How many tokens are there. */
export function tokensAt({ tokens, at }: Level, { capacity, perSecond }: Bucket, now: number): number {
  return Math.min(capacity, tokens + Math.max(0, now - at) * (perSecond / 1000));
}

/** When the bucket is as if nobody had taken anything, which is as good as gone. Milliseconds of the level's clock. */
export function fullAt({ tokens, at }: Level, { capacity, perSecond }: Bucket): number {
  return at + ((capacity - tokens) / perSecond) * 1000;
}

/** The outcome, for whoever asked, when `tokens` are there afterwards. */
export function taken(allowed: boolean, tokens: number, { perSecond }: Bucket, count: number): Taken {
  return {
    allowed,
    remaining: Math.max(0, Math.floor(tokens)),
    retryAfterSeconds: allowed ? 0 : Math.max(1, Math.ceil((count - tokens) / perSecond)),
  };
}

/**
 * {@link takeFrom} as Redis runs it, in one step for all replicas, by Redis's own clock: theirs need not agree.
 * KEYS[1] the bucket; ARGV capacity, tokens a second, count, 1 for forced. Answers whether they were taken, 1 or 0, and
 * the tokens that are there, as text, since Redis would round a number.
 */
export const TAKE_TOKENS_SCRIPT = `
local capacity, per_second, count = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local level = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(level[1]) or capacity, tonumber(level[2]) or now
tokens = math.min(capacity, tokens + math.max(0, now - at) * (per_second / 1000))
if ARGV[4] ~= '1' and tokens < count then
  return { 0, string.format('%.17g', tokens) }
end
tokens = math.max(-capacity, math.min(capacity, tokens - count))
redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', tokens), 'at', string.format('%.17g', math.max(at, now)))
redis.call('PEXPIRE', KEYS[1], math.ceil((capacity - tokens) / per_second * 1000) + 1000)
return { 1, string.format('%.17g', tokens) }
`;
