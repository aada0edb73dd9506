import type { FastifyBaseLogger } from "fastify";
import { createRemoteJWKSet, errors, type JWTVerifyGetKey } from "jose";
import type { WatchedConnector } from "../services/resilience.ts";

/** No signing keys can be had, or those at hand are too old to be trusted: tokens cannot be judged now. */
export class KeysUnavailable extends Error {
  override readonly name = "KeysUnavailable";
}

/** Age from which keys are fetched anew, beside the requests. Entra says new keys a day before it signs with them. */
const REFRESH_MS = 10 * 60_000;
/**
 * Age beyond which keys are no longer trusted: a key that Entra has withdrawn must not open this server for ever because
 * somebody keeps it from asking. Entra's documentation has applications ask once a day at least.
 */
const LAST_MS = 24 * 60 * 60_000;
/** At least this long between two fetches, whatever tokens name; shorter while there are no keys at all. */
const COOLDOWN_MS = 30_000;
const FIRST_COOLDOWN_MS = 1000;
const FETCH_TIMEOUT_MS = 5000;

interface KeyOptions {
  readonly log: Pick<FastifyBaseLogger, "info" | "warn">;
  /** Told of each fetch. Its time-out is jose's; the pauses below are what a circuit would be. */
  readonly connector?: WatchedConnector | undefined;
  /** Milliseconds since 1970. */
  readonly now: () => number;
}

/**
 * The signing keys at `url`, fetched when first needed. jose alone would fetch on every unknown key id while the
 * endpoint fails, and forget good keys when they cannot be refreshed; so it is told when to fetch, and never does by
 * itself.
 */
export function createSigningKeys(url: URL, { log, connector, now }: KeyOptions): JWTVerifyGetKey {
  const remote = createRemoteJWKSet(url, {
    cacheMaxAge: Number.POSITIVE_INFINITY,
    cooldownDuration: Number.POSITIVE_INFINITY,
    timeoutDuration: FETCH_TIMEOUT_MS,
  });
  let loadedAt: number | undefined;
  let triedAt = Number.NEGATIVE_INFINITY;

  /** Fetches, or joins a fetch under way. Tells whether there are newer keys now. */
  const reload = async (): Promise<boolean> => {
    if (!remote.reloading) {
      if (now() < triedAt + (loadedAt === undefined ? FIRST_COOLDOWN_MS : COOLDOWN_MS)) return false;
      triedAt = now();
      connector?.requested();
    }
    try {
      await remote.reload();
      loadedAt = now();
      connector?.answered();
      return true;
    } catch (error) {
      connector?.failed(error);
      log.warn({ event: "signing-keys.failed", url: url.href, err: error });
      return false;
    }
  };

  return async (header, token) => {
    const age = loadedAt === undefined ? Number.POSITIVE_INFINITY : now() - loadedAt;
    if (age > LAST_MS) {
      if (!(await reload())) throw new KeysUnavailable(`No signing keys from ${url.href}.`);
    } else if (age > REFRESH_MS) {
      void reload();
    }
    try {
      return await remote(header, token);
    } catch (error) {
      if (!(error instanceof errors.JWKSNoMatchingKey) || !(await reload())) throw error;
      return remote(header, token);
    }
  };
}
