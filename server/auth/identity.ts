import type { FastifyBaseLogger } from "fastify";
import type { Config } from "../config.ts";
import type { Metrics } from "../observability/metrics.ts";
import type { Connectors } from "../services/resilience.ts";
import type { SharedStore } from "../services/shared-store.ts";
import { type Authenticate, createAuthenticate } from "./authenticate.ts";
import type { Admitted } from "./credentials.ts";
import type { Entra } from "./entra.ts";
import { createFailures, type Failures } from "./failures.ts";
import { createApiKeys } from "./key-sources.ts";
import type { AccessPolicy } from "./roles.ts";
import { createTickets, type Tickets } from "./tickets.ts";

/** Who calls: everything that tells, as the configuration has it. */
export interface Identity {
  readonly authenticate: Authenticate;
  /** Whether what a caller was let in by still holds; asked of connections that stay open. */
  readonly stillHolds: (admitted: Admitted) => boolean;
  readonly tickets: Tickets;
  readonly failures: Failures;
  close(): Promise<void>;
}

interface IdentityOptions {
  readonly config: Config;
  /** Of ACCESS_POLICY. */
  readonly policy: AccessPolicy;
  readonly log: FastifyBaseLogger;
  readonly metrics?: Pick<Metrics, "keysExpire"> | undefined;
  /** Where tickets lie, for every replica. */
  readonly store: Pick<SharedStore, "put" | "take">;
  readonly connectors: Connectors;
  /** Milliseconds since 1970, by which tokens are judged; the machine's clock by default. */
  readonly now?: (() => number) | undefined;
  readonly failures?: Failures | undefined;
}

/** Resolves when keys have been looked for once; rejects when a register in a file cannot be used. */
export async function createIdentity(options: IdentityOptions): Promise<Identity> {
  const { config, log, metrics, store, connectors, failures = createFailures(), now = Date.now } = options;
  const keys = createApiKeys({ config, log, metrics, connectors });
  const tickets = createTickets({ store });
  const [entra] = await Promise.all([entraOf(options), keys.ready]);
  return {
    authenticate: createAuthenticate({ mode: config.AUTH_MODE, keys, entra, tickets, failures }),
    stillHolds: ({ caller, expires }) => (expires === undefined || expires > now()) && keys.holds(caller),
    tickets,
    failures,
    close: () => keys.close(),
  };
}

/** What judges Entra's tokens; loaded only where there are some, since the others need not wait for it. */
async function entraOf({ config, policy, log, connectors, now }: IdentityOptions): Promise<Entra | undefined> {
  if (config.ENTRA_CLIENT_ID === undefined) return undefined;
  const { createEntra } = await import("./entra.ts");
  return createEntra({ config, policy, log, connectors, ...(now && { now }) });
}
